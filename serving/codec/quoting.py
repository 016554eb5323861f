"""What a client sent, as an error shows it."""

_MAX_CHARS = 100


def shown(value: object) -> str:
    """Control characters escaped, cut short.

    >>> shown("line" + chr(10))
    "'line\\\\n'"
    """
    if isinstance(value, str) and len(value) > _MAX_CHARS:
        value = value[:_MAX_CHARS] + "…"  # before megabytes of it are escaped
    text = repr(value)
    return text if len(text) <= 2 * _MAX_CHARS else text[: 2 * _MAX_CHARS] + "…"
