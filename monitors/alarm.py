"""An alarm latches, and clears after enough quiet blocks, so that alerts resolve."""

import math
from typing import Literal

import msgspec

State = Literal["ok", "alarm", "no_data", "unfit"]
Severity = Literal["page", "ticket", "info"]  # users are harmed now; somebody looks in working hours; it explains

HELD = math.log(2)  # nats: evidence that began again at 0 holds the alarm above this


class Alarm(msgspec.Struct):
    """On from the block that raised it until `quiet_blocks` judged blocks in a row were quiet.

    The evidence begins again at 0 when it raises an alarm, and what is wrong may go on so slowly that it takes longer
    than that to raise another. So a block is quiet only where the evidence since then, which what is wrong keeps
    positive, is no more than `HELD`; where nothing is wrong any more, it falls below 0 soon and stays there.

    >>> alarm = Alarm()
    >>> for hour, (crossed, log_e) in enumerate([(False, 4.0), (True, 9.0), (False, -1.0), (False, 2.0), (False, 0.0)]):
    ...     alarm.update(crossed, at=3600.0 * hour, quiet_blocks=2, log_e=log_e)
    ...     print(alarm.on, alarm.since, alarm.quiet)
    False None 1
    True 3600.0 0
    True 3600.0 1
    True 3600.0 0
    True 3600.0 1
    """

    since: float | None = None  # end of the block that raised it, seconds since 1970 UTC
    quiet: int = 0

    @property
    def on(self) -> bool:
        return self.since is not None

    def update(self, crossed: bool, at: float, quiet_blocks: int, log_e: float = 0.0) -> None:
        """A block that ended at `at` was judged: whether it raised the alarm, and the evidence then, in nats."""
        self.quiet = 0 if crossed or (self.on and log_e > HELD) else self.quiet + 1
        if crossed and self.since is None:
            self.since = at
        elif self.quiet >= quiet_blocks:
            self.since = None
