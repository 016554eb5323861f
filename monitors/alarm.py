"""An alarm latches, and clears after enough quiet blocks, so that alerts resolve."""

from typing import Literal

import msgspec

State = Literal["ok", "alarm", "no_data", "unfit"]
Severity = Literal["page", "ticket", "info"]  # users are harmed now; somebody looks in working hours; it explains


class Alarm(msgspec.Struct):
    """On from the block that raised it until `quiet_blocks` judged blocks in a row did not raise it again.

    >>> alarm = Alarm()
    >>> for hour, crossed in enumerate([False, True, False, True, False, False]):
    ...     alarm.update(crossed, at=3600.0 * hour, quiet_blocks=2)
    ...     print(alarm.on, alarm.since)
    False None
    True 3600.0
    True 3600.0
    True 3600.0
    True 3600.0
    False None
    """

    since: float | None = None  # end of the block that raised it, seconds since 1970 UTC
    quiet: int = 0

    @property
    def on(self) -> bool:
        return self.since is not None

    def update(self, crossed: bool, at: float, quiet_blocks: int) -> None:
        self.quiet = 0 if crossed else self.quiet + 1
        if crossed and self.since is None:
            self.since = at
        elif self.quiet >= quiet_blocks:
            self.since = None
