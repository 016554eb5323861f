"""Which features drifted, since when: e-d-BH over the features' e-detectors.

Of K detectors with evidence e_(1) >= e_(2) >= ... the first k* are declared, k* = max {k : e_(k) >= K A / k}. For
any stopping time tau and whatever the dependence of the features, E[false share of those declared at tau] <=
E[tau] / A, tau in blocks: error over patience (Dandapanthula & Ramdas 2025, arXiv 2501.04130). It is not error over
all time, which no detector with a finite delay controls: who waits for A blocks must expect a false one.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm


def declared(log_e: NDArray[np.float64], log_run: float) -> NDArray[np.bool_]:
    """Which streams e-d-BH declares. `log_e` in nats, shape (K,); `log_run` is log A, A in blocks.

    >>> declared(np.log([3.0, 70.0, 40.0]), np.log(20.0)).tolist()  # 3 A / k is 60, 30, 20
    [False, True, True]
    """
    order = np.argsort(-log_e, kind="stable")
    needed = log_run + np.log(len(log_e)) - np.log(np.arange(1, len(log_e) + 1))
    reached = np.flatnonzero(log_e[order] >= needed)
    found = np.zeros(len(log_e), bool)
    found[order[: reached[-1] + 1 if len(reached) else 0]] = True
    return found


class Which(msgspec.Struct, frozen=True):
    """One of the features that drifted."""

    feature: str
    log_e: float  # in nats, the largest with which it was declared
    since: float  # end of the block that declared it first, seconds since 1970 UTC


class Declared(msgspec.Struct, array_like=True):
    """One feature as it is stored. A declaration latches and clears as an alarm does."""

    latch: Alarm = msgspec.field(default_factory=Alarm)
    log_e: float = 0.0


class WhichWatch:
    """Judges all features of a version together; they are declared by e-d-BH.

    >>> watch = WhichWatch()
    >>> watch.judge({"age": 1.0, "dest": 9.0, "carrier": 20.0}, at=3600.0, log_run=7.0, quiet_blocks=10)
    >>> [which.feature for which in watch.verdict()]
    ['carrier', 'dest']
    """

    def __init__(self) -> None:
        self._state: dict[str, Declared] = {}

    def judge(self, log_e: Mapping[str, float], at: float, log_run: float, quiet_blocks: int) -> None:
        """Take the evidence of all features after the block that ended at `at`."""
        for name, found in zip(log_e, declared(np.array(list(log_e.values())), log_run).tolist(), strict=True):
            state = self._state.setdefault(name, Declared())
            if found:
                state.log_e = max(log_e[name], state.log_e if state.latch.on else 0.0)
            state.latch.update(found, at, quiet_blocks)

    def verdict(self) -> tuple[Which, ...]:
        """The strongest evidence first."""
        found = (Which(name, s.log_e, s.latch.since) for name, s in self._state.items() if s.latch.since is not None)
        return tuple(sorted(found, key=lambda which: (-which.log_e, which.feature)))

    def save(self) -> dict[str, Declared]:
        return self._state

    def load(self, saved: dict[str, Declared]) -> None:
        self._state = saved
