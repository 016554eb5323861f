"""What msgspec says of a tree that it refuses, in the words of who wrote it: keys of tables, the nearest name."""

import difflib
import re
from typing import Any

import msgspec


def explained(message: str, kind: Any, tree: dict[str, Any]) -> str:
    """msgspec's `message` about `tree`, which should have been a `kind`."""
    return _with_keys(_with_nearest(message, kind), kind, tree)


def _with_keys(message: str, kind: Any, tree: dict[str, Any]) -> str:
    """msgspec writes `[...]` for a key of a table; say which one: ``$.models[...]`` -> ``$.models.flights``."""
    return re.sub(r"(?<=at `)\$[^`]*(?=`)", lambda found: _named(found[0], kind, tree), message)


def _named(path: str, kind: Any, tree: Any) -> str:
    named = "$"
    for step in _steps(path):
        kind = _child(kind, step)
        if step == "[...]":
            key = next(key for key, value in tree.items() if not _fits(value, kind))
            named += f".{key}"
        else:
            key = int(step[1:-1]) if step.startswith("[") else step
            named += step if step.startswith("[") else f".{step}"
        tree = tree[key]
    return named


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _with_nearest(message: str, kind: Any) -> str:
    found = re.search(r"unknown field `([^`]*)`(?: - at `([^`]*)`)?", message)
    if not found:
        return message
    nearest = difflib.get_close_matches(found[1], _fields_at(kind, found[2] or "$"), n=1, cutoff=0.5)
    return f"{message}; did you mean `{nearest[0]}`?" if nearest else message


def _steps(path: str) -> list[str]:
    """``$.models[...].shadows[0]`` -> models, [...], shadows, [0]"""
    return re.findall(r"\[[^\]]*\]|[^.\[\]$]+", path)


def _fields_at(kind: Any, path: str) -> list[str]:
    for step in _steps(path):
        kind = _child(kind, step)
    return [f.name for f in msgspec.structs.fields(kind)] if isinstance(kind, type) else []


def _child(kind: Any, step: str) -> Any:
    if step.startswith("["):  # an element of a dict or tuple
        return next(arg for arg in reversed(kind.__args__) if arg is not Ellipsis)
    return next(f.type for f in msgspec.structs.fields(kind) if f.name == step)
