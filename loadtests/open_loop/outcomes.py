"""What became of every request of a run."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

OPEN, GAVE_UP, BROKEN = 0, -1, -2  # in the place of a status: no answer yet, none in time, the connection ended
NAMES = {OPEN: "no answer", GAVE_UP: "gave up", BROKEN: "connection lost"}


@dataclass
class Outcomes:
    """Seconds from the start, NaN where there was no such time; the last status; attempts made."""

    sent_s: npt.NDArray[np.float64]
    done_s: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    attempts: npt.NDArray[np.int64]
    refusals: "Counter[tuple[int, str]]" = field(default_factory=Counter)  # status and reason of each attempt's
    wrong: list[tuple[int, bytes]] = field(default_factory=list)  # request and the answer's beginning
    late_answers: int = 0  # to attempts that were given up
    unasked: int = 0  # answers to nothing
    most_connections: int = 0  # of one client
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @classmethod
    def of(cls, n: int) -> "Outcomes":
        return cls(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64), np.zeros(n, np.int64))
