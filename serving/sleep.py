"""Whether a version without a replica sleeps, and is woken when a request waits, or has died. Pure."""

from collections.abc import Callable


class Sleep:
    """Of one version in one worker. A replica that says goodbye before it goes may be the last; one that does not died.

    >>> sleep = Sleep()
    >>> sleep.allowed = True
    >>> sleep.left(goodbye=False)
    >>> sleep.possible
    False
    """

    def __init__(self, cold_start: Callable[[float], None] = lambda seconds: None) -> None:
        self._cold_start = cold_start
        self.allowed = False  # by its configuration: it may have no replica at all
        self._died = False
        self._since: float | None = None  # a request has waited for a replica to be made

    @property
    def possible(self) -> bool:
        return self.allowed and not self._died

    def waits(self, now: float) -> None:
        """A request came, and there is no replica."""
        self._since = now if self._since is None else self._since

    def came(self, now: float) -> None:
        """A replica did."""
        self._died = False
        if self._since is not None:
            self._cold_start(now - self._since)
            self._since = None

    def left(self, goodbye: bool) -> None:
        self._died = not goodbye
