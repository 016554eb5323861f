"""The monitor's test of itself, on the live counts of one feature: would the detector have kept silent, and spoken?

`halves`: each row has a fair bit, from a hash of its arrival time and its number, that has nothing to do with its
value. So of the rows in a cell half have it, whatever the law, the drift or the dependence of the rows, and a detector
of one half against the other must stay silent: at A = 20 its alarms in T blocks stay below the 0.999 quantile of a
Poisson variable with mean T / 20.

`shift`: a copy of each block's counts with all rows moved into the reference's rarest cell must raise an alarm at
A = 20, by the time that `DELAY_ROWS` effective rows were seen, and four blocks. That is the delay for the bluntest
reference that is judged at all.

Both use the bets of drift as they are, so they check the implementation from the counts to the alarm; they are no
proof of the promise, which takes a thousand streams (`tests/monitors/drift`).
"""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitors.bottom_k import Hashes
from monitors.drift.e_detector import CLIPS, Bettor, accumulated, log_mean_exp
from monitors.marginal import Marginal
from monitors.profile import PREDICTION, Profile

THRESHOLD = math.log(20.0)
DELAY_ROWS, DELAY_BLOCKS = 40, 4
HALF_TOLERANCE = 0.01  # of the rows of a cell: float rounding is no fault

Passing = Literal["passed", "failed", "no_data"]
Ints = NDArray[np.int64]


class SelfTest(msgspec.Struct, frozen=True):
    """`halves`: alarms in so many blocks. `shift`: shifts that were found and that were missed."""

    halves: Passing
    shift: Passing
    blocks: int
    alarms: int
    found: int
    missed: int

    @property
    def failed(self) -> bool:
        return "failed" in (self.halves, self.shift)


class SavedSelfTest(msgspec.Struct, array_like=True):
    q_halves: list[list[float]] = []
    s_halves: list[float] = []
    q_shift: list[float] = []
    s_shift: list[float] = []
    alarms: int = 0
    blocks: int = 0
    found: int = 0
    missed: int = 0
    waited_rows: float = 0.0  # since the shift began, effective ones
    waited_blocks: int = 0


def chosen(profile: Profile | None) -> str | None:
    """The feature whose counts are used: the prediction, else the first that can be judged."""
    fit = [name for name, law in profile.features.items() if not law.unfit] if profile else []
    return PREDICTION if PREDICTION in fit else next(iter(fit), None)


def half(drawn: Hashes) -> NDArray[np.bool_]:
    """A fair bit of each row: the lowest one of its hash (`bottom_k.hashes`). Shapes (n,)."""
    return np.asarray(drawn & np.uint64(1) == 1)


class SelfTestWatch:
    """Takes the blocks of the tested feature, whose law is `law`; None where there is none.

    >>> from monitors.reference import marginal
    >>> rng, law = np.random.default_rng(1), marginal(np.arange(5000.0), "numeric")
    >>> watch = SelfTestWatch(law, tolerance=0.02)
    >>> for _ in range(40):
    ...     cells = rng.multinomial(200, law.theta)
    ...     watch.judge(cells, rng.binomial(cells, 0.5))
    >>> watch.verdict()
    SelfTest(halves='passed', shift='passed', blocks=40, alarms=0, found=20, missed=0)
    """

    def __init__(self, law: Marginal | None, tolerance: float) -> None:
        self._law, self._state = law, SavedSelfTest()
        size = law.size if law else 1
        self._halves = Bettor(np.full((size, 2), 0.5), np.full(size, HALF_TOLERANCE))
        self._tolerance = min(1.0, tolerance + law.error) if law else 0.0
        self._rarest = int(np.argmin(law.theta)) if law else 0
        self._s_halves = np.zeros(len(CLIPS))
        self._begin_shift()

    def judge(self, cells: Ints | None, bits: Ints | None) -> None:
        """Take a block's rows by cell, and those of them that have the bit, shapes (K,)."""
        if self._law is None or cells is None or bits is None or not cells.any():
            return
        self._state.blocks += 1
        self._judge_halves(cells, bits)
        rows = int(cells.sum())
        self._judge_shift(rows, min(self._law.design_effect, rows))

    def verdict(self) -> SelfTest:
        state = self._state
        most = special.pdtrik(0.999, state.blocks / math.exp(THRESHOLD)) if state.blocks else 0.0
        halves: Passing = "no_data" if not state.blocks else "passed" if state.alarms <= math.ceil(most) else "failed"
        tried = state.found or state.missed
        shift: Passing = "no_data" if not tried else "failed" if state.missed else "passed"
        return SelfTest(halves, shift, state.blocks, state.alarms, state.found, state.missed)

    def save(self) -> SavedSelfTest:
        return msgspec.structs.replace(
            self._state, q_halves=self._halves.q.tolist(), s_halves=self._s_halves.tolist(),
            q_shift=self._shift.q.tolist(), s_shift=self._s_shift.tolist(),
        )  # fmt: skip

    def load(self, saved: SavedSelfTest) -> None:
        """State of other cells is left aside."""
        if len(saved.q_shift) == len(self._shift.theta) and len(saved.s_shift) == len(CLIPS):
            self._state = saved
            self._halves.q, self._s_halves = np.array(saved.q_halves), np.array(saved.s_halves)
            self._shift.q, self._s_shift = np.array(saved.q_shift), np.array(saved.s_shift)

    def _judge_halves(self, cells: Ints, bits: Ints) -> None:
        some = cells > 0
        bettor = Bettor(self._halves.theta[some], self._halves.tolerance[some])
        bettor.q = self._halves.q[some]
        won = bettor.update(np.stack([bits, cells - bits], -1)[some])
        self._halves.q = self._halves.q.copy()
        self._halves.q[some] = bettor.q
        self._s_halves = accumulated(self._s_halves, won.sum(0))
        if log_mean_exp(self._s_halves) >= THRESHOLD:
            self._state.alarms += 1
            self._s_halves = np.zeros(len(CLIPS))

    def _judge_shift(self, rows: int, design_effect: float) -> None:
        state = self._state
        shifted = np.zeros(len(self._shift.theta), np.int64)
        shifted[self._rarest] = rows
        self._s_shift = accumulated(self._s_shift, self._shift.update(shifted, design_effect))
        state.waited_rows += rows / design_effect
        state.waited_blocks += 1
        if log_mean_exp(self._s_shift) >= THRESHOLD:
            state.found += 1
            self._begin_shift()
        elif state.waited_rows >= DELAY_ROWS and state.waited_blocks >= DELAY_BLOCKS:
            state.missed += 1
            self._begin_shift()

    def _begin_shift(self) -> None:
        theta = self._law.theta if self._law else np.ones(1)
        self._shift, self._s_shift = Bettor(theta, self._tolerance), np.zeros(len(CLIPS))
        self._state.waited_rows, self._state.waited_blocks = 0.0, 0
