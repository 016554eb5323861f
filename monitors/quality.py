"""Data quality: evidence that more rows than ever are missing, unseen, out of range, stuck, unreadable or repeated.

A check looks at one share of a feature's rows, a cell against all others. Null: given the past, a row falls into the
cell with probability at most `bound + tolerance`, where `bound` is the upper confidence bound of the reference's share
p = k/n, with rows / D for the rows (Clopper & Pearson 1934; Korn & Graubard 1998 for clustered rows). The bet is that
of drift on two cells, but only ever that the share rises: fewer missing values are no fault.

    `missing`   empty or NaN; every feature
    `below`     under the smallest number of the reference; `above`: over its largest
    `unseen`    a category that the reference does not have
    `constant`  a value that no longer varies, as far as counts show it: rows in the bin, or of the category, that was
                the most common in the block before. Its null allows three quarters, or the reference's largest share
    `unreadable`  of the version's rows: their tensors are not of the type or shape that it declares
    `repeated`    of the version's rows: all features are as in another row of the block

Rows of the last two come in runs of unknown length, so the mean of a block is bet on, as with risk.
The mean of all checks' detectors is one detector, whatever their dependence: one alarm a version, which opens a ticket.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm, Severity
from monitors.drift import season
from monitors.drift.e_detector import CLIPS, Bettor, Floats, accumulated, log_mean_exp
from monitors.drift.tempering import clustering
from monitors.loss import upper_bound_of_share
from monitors.marginal import Marginal
from monitors.repeats import Repeats, repeated
from monitors.sampling import ALPHA, MIN_BLOCKS
from monitors.slot import ROWS, Counts
from monitors.strata import Strata

STUCK = 0.75  # of the rows in one bin are no stuck value
KAPPAS = np.geomspace(0.05, 0.9, len(CLIPS))  # sizes of bets on means of blocks
WINDOW_BLOCKS = 10  # judged blocks behind a live design effect
RECENT_BLOCKS = 2  # judged blocks behind a ratio

Ints = NDArray[np.int64]


class CheckVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of one check of one feature; evidence in nats. `ratio` is of the rows of the newest blocks, 0..1.

    Where hours are compared apart, `reference` and `bound` are of the hours of these rows.
    """

    ratio: float
    reference: float  # the share in the reference, 0..1; of `constant` at least 3/4
    bound: float  # up to here plus the tolerance nothing is found
    log_e: float  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC


class QualityVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of a version: evidence of all checks together, and each of them by feature and name."""

    log_e: float = 0.0
    threshold: float
    alarm: bool = False
    since: float | None = None
    blocks: int = 0  # judged so far
    severity: Severity = "ticket"
    checks: dict[str, dict[str, CheckVerdict]] = {}


class SavedQuality(msgspec.Struct, array_like=True):
    """As it is stored: float64 and integers, exactly. Lists are by check, windows by block and check."""

    q: list[float] = []
    s: list[list[float]] = []
    share: list[list[float]] = []  # what each lends to the alarm of the version, which restarts on its own
    log_e: list[float] = []
    hits: list[list[int]] = []
    rows: list[list[int]] = []
    stuck: dict[str, int] = {}  # by feature, the cell that was the most common in the newest block
    alarms: dict[int, Alarm] = {}  # that are on
    alarm: Alarm = msgspec.field(default_factory=Alarm)
    evidence: float = 0.0  # of all together
    blocks: int = 0
    usual: list[list[list[float]]] = []  # where rows are held to their hours, by check: sums of shares, of bounds, rows


class Check(NamedTuple):
    """`cell` of the feature's; None: the one that was the most common in the block before."""

    feature: str
    name: str
    cell: int | None


class Rise(Bettor):
    """Bets on the first of two cells alone, and only that it holds more rows than in the reference."""

    def update(self, counts: Ints, design_effect: Floats | float = 1.0) -> Floats:
        won = super().update(counts, design_effect)
        self.rise()
        return won

    def rise(self) -> None:
        """Forget that there were fewer."""
        first = np.maximum(self.q[..., 0], self.theta[..., 0])
        self.q = np.stack([first, 1 - first], -1)


class QualityWatch:
    """All checks of one version.

    >>> from monitors.reference import marginal
    >>> watch = QualityWatch({"x": marginal(np.arange(5000.0), "numeric")}, rows=5000, tolerance=0.02)
    >>> cells = np.array([0, *[20] * 10, 0, 50])  # a fifth is missing
    >>> for hour in range(3):
    ...     watch.judge(Counts(250, {"x": cells}), at=3600.0 * hour, threshold=7.0, quiet_blocks=10)
    >>> verdict = watch.verdict(7.0)
    >>> verdict.alarm, [name for name, check in verdict.checks["x"].items() if check.alarm]
    (True, ['missing'])
    """

    def __init__(
        self, laws: Mapping[str, Marginal], rows: int, tolerance: float, split: float = 1.0, *,
        repeats: Repeats | None = None, by_block: bool = False,
    ) -> None:  # fmt: skip
        """`rows` and `repeats` are the reference's; `split` is as in `Watch`. `by_block`: bet on means of blocks."""
        self.laws, self._split = laws, split
        self.checks = [Check(name, *check) for name, law in laws.items() for check in _checks(law)]
        facts = [_facts(laws[check.feature], check) for check in self.checks]
        self._unreadable, self._repeated = len(facts), len(facts) + 1
        self.checks.append(Check(ROWS, "unreadable", 0))
        facts.append(_Facts(0.5 / (rows + 1), upper_bound_of_share(0, rows, ALPHA), math.inf))
        self._ordinary = np.full(self._repeated, math.inf)  # rows of a block
        if repeats is not None:
            self.checks.append(Check(ROWS, "repeated", None))
            facts.append(_Facts(repeats.mean, repeats.bound, math.inf))
            self._ordinary = np.append(self._ordinary, repeats.block_rows)
        numbers, checks = {name: i for i, name in enumerate(laws)}, self.checks[: self._unreadable]
        self._feature = np.array([numbers[check.feature] for check in checks], np.intp)
        self._cell = np.array([-1 if check.cell is None else check.cell for check in checks], np.intp)
        self._inside = _insides(laws)
        apart = [bool(laws[check.feature].strata) for check in checks]
        self._apart = np.array([*apart, *[False] * (len(facts) - len(apart))])  # compared by hour of the week
        self._hours: dict[int, Floats] = {}  # by hour of the week, see `_at`
        theta, self._bound, design_effect, self._block_rows, self._least, self._most = np.array(facts).T
        self._design_effect = np.full(len(facts), math.inf) if by_block else design_effect
        self._by_block, self._allowance = np.isinf(self._design_effect), tolerance
        theta = theta.clip(1e-9, 1 - 1e-9)
        self._theta = np.stack([theta, 1 - theta], -1)
        self._tolerance = np.minimum(1.0, tolerance + self._bound - theta)
        self._q = self._theta
        self._s = self._share = np.zeros((len(self.checks), len(CLIPS)))
        self._state = SavedQuality(log_e=[0.0] * len(self.checks))

    def judge(self, counts: Counts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Take a block that ended at `at`."""
        table = self._table(counts.cells)
        hits, rows = self._counted(counts, table)
        if not counts.hours:
            rows[self._apart] = 0
        some = np.flatnonzero(rows)
        if not len(some):
            return
        state = self._state
        self._bet(some, hits[some], rows[some], counts)
        state.hits = [*state.hits, hits.tolist()][-WINDOW_BLOCKS:]
        state.rows = [*state.rows, rows.tolist()][-WINDOW_BLOCKS:]
        state.blocks += 1
        self._raise(some, at, threshold, quiet_blocks)
        self._raise_all(at, threshold, quiet_blocks)
        self._remember(table)

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it."""
        self._s, self._share = self._s - nats, self._share - nats

    def verdict(self, threshold: float) -> QualityVerdict:
        state = self._state
        hits, rows = self._past(RECENT_BLOCKS)
        ratio = (hits.sum(0) / np.maximum(rows.sum(0), 1)).tolist()
        (reference, bound), off = self._usual().tolist(), Alarm()
        checks: dict[str, dict[str, CheckVerdict]] = {}
        for i, check in enumerate(self.checks):
            alarm = state.alarms.get(i, off)
            checks.setdefault(check.feature, {})[check.name] = CheckVerdict(
                ratio=ratio[i], reference=reference[i], bound=bound[i], log_e=state.log_e[i], threshold=threshold,
                alarm=alarm.on, since=alarm.since,
            )  # fmt: skip
        return QualityVerdict(
            log_e=state.evidence, threshold=threshold, alarm=state.alarm.on,
            since=state.alarm.since, blocks=state.blocks, checks=checks,
        )  # fmt: skip

    def save(self) -> SavedQuality:
        return msgspec.structs.replace(
            self._state, q=self._q[:, 0].tolist(), s=self._s.tolist(), share=self._share.tolist()
        )

    def load(self, saved: SavedQuality) -> None:
        """State of other checks is left aside."""
        if len(saved.q) == len(self.checks):
            first = np.array(saved.q)
            self._state, self._q = saved, np.stack([first, 1 - first], -1)
            self._s, self._share = np.array(saved.s), np.array(saved.share)

    def _table(self, cells: Mapping[str, Ints]) -> Ints:
        """Rows of all features by cell, shape (features, cells); features with fewer cells have empty ones."""
        table = np.zeros(self._inside.shape, np.int64)
        for row, name in zip(table, self.laws, strict=True):
            if (found := cells.get(name)) is not None:
                row[: len(found)] = found
        return table

    def _counted(self, counts: Counts, table: Ints) -> tuple[Ints, Ints]:
        """Of each check the rows in its cell, and all rows of its feature, shapes (checks,)."""
        hits, rows = np.zeros((2, len(self.checks)), np.int64)
        hits[: self._unreadable], rows[: self._unreadable] = self._of_features(table)
        if ROWS in counts.cells:
            hits[self._unreadable] = counts.cells[ROWS][0]
        rows[self._unreadable] = counts.rows
        if counts.contents is not None and self._repeated < len(rows):
            hits[self._repeated], rows[self._repeated] = repeated(counts.contents)
        return hits, rows

    def _of_features(self, table: Ints) -> Ints:
        """As `_counted`, of the checks of features, shape (2, checks)."""
        stuck = np.array([self._state.stuck.get(name, -1) for name in self.laws], np.intp)
        at = np.where(self._cell < 0, stuck[self._feature], self._cell)
        found = np.stack([table[self._feature, at], table.sum(1)[self._feature]])
        return np.where(at < 0, 0, found)

    def _bet(self, some: NDArray[np.intp], hits: Ints, rows: Ints, counts: Counts) -> None:
        """On the checks `some`, which have rows in the block."""
        bettor, tempering = Rise(self._theta[some], self._tolerance[some]), self._tempering(some, rows)
        bettor.q = self._q[some]
        won = bettor.update(np.stack([hits, rows - hits], -1), tempering)
        bound, apart = self._bound[some], self._apart[some]
        if apart.any():
            won[apart], bettor.q[apart], bound[apart] = self._by_hour(some[apart], tempering[apart], counts)
        won = np.where(self._by_block[some, None], self._won_by_block(some, hits / rows, bound, counts.rows), won)
        self._q, self._s, self._share = self._q.copy(), self._s.copy(), self._share.copy()
        self._q[some] = bettor.q
        self._s[some] = accumulated(self._s[some], won)
        self._share[some] = accumulated(self._share[some], won)

    def _by_hour(self, some: NDArray[np.intp], tempering: Floats, counts: Counts) -> tuple[Floats, Floats, Floats]:
        """Log winnings, beliefs and bounds of checks of features that are compared by hour, each row by its hour."""
        hours = sorted(counts.hours)
        found = np.stack([self._of_features(self._table(counts.hours[hour])) for hour in hours], -1)[:, some]
        theta, bound = np.stack([self._at(hour) for hour in hours], -1)[:, some]
        judged = np.array([[hour in self._strata(i).judged for hour in hours] for i in some.tolist()])
        hits, rows = found * judged
        bettor = Rise(self._theta[some], self._tolerance[some])
        bettor.q = self._q[some]
        tolerance = np.minimum(1.0, self._allowance + bound - theta)
        parts = np.stack([hits, rows - hits], -1)
        won = season.bet(bettor, np.stack([theta, 1 - theta], -1), tolerance, parts, tempering)
        bettor.rise()
        usual = np.zeros((3, len(self.checks)))
        usual[:, some] = (rows * theta).sum(1), (rows * bound).sum(1), rows.sum(1)
        self._state.usual = [*self._state.usual, usual.tolist()][-RECENT_BLOCKS:]
        return won, bettor.q, (found[1] * bound).sum(1) / np.maximum(found[1].sum(1), 1)

    def _usual(self) -> Floats:
        """Of each check its share in the reference and the bound of that, shape (2, checks), to be told."""
        whole = np.stack([self._theta[:, 0], self._bound])
        sums = np.array(self._state.usual).reshape(-1, 3, len(self.checks)).sum(0)
        return np.where(sums[2] > 0, sums[:2] / np.maximum(sums[2], 1), whole)

    def _at(self, hour: int) -> Floats:
        """Of each check of a feature its share in the reference of an hour of the week, and its bound, shape (2, n)."""
        if hour not in self._hours:
            facts = [_facts(self.laws[check.feature].at(hour), check) for check in self.checks[: self._unreadable]]
            theta, bound, *_ = np.array(facts).T
            self._hours[hour] = np.stack([theta.clip(1e-9, 1 - 1e-9), bound])
        return self._hours[hour]

    def _strata(self, check: int) -> Strata:
        strata = self.laws[self.checks[check].feature].strata
        assert strata
        return strata

    def _won_by_block(self, some: NDArray[np.intp], share: Floats, bound: Floats, block_rows: int) -> Floats:
        """Of bets on the mean of a block, as those on risk. In more rows than ordinary more repeat by chance."""
        more = np.maximum(1.0, block_rows / self._ordinary[some])
        m = np.minimum(1.0, bound * more + self._allowance)
        return np.asarray(np.log1p(KAPPAS * (share / m - 1)[:, None]))

    def _tempering(self, some: NDArray[np.intp], rows: Ints) -> Floats:
        """The design effect D of a block, as `live_design_effect` has it; never more than the rows.

        Dividing by all rows is an e-value whatever their dependence: exp of a mean of logs is at most the mean.
        """
        reference, others = self._design_effect[some], self._block_rows[some] - 1
        known = (others > 0) & ~self._by_block[some]
        more, others = np.where(known, reference - 1, 0.0), np.where(known, others, 1.0)
        denser = (rows - 1) / others - 1
        low, high = 1 + more * (rows * self._split - 1) / others, 1 + more
        low = np.where(denser > 0, reference + self._least[some] * denser, low)
        high = np.where(denser > 0, reference + self._most[some] * denser, high)
        hits, past = self._past(WINDOW_BLOCKS)
        enough = (past[:, some] > 0).sum(0) >= MIN_BLOCKS
        shown = np.where(enough, _dispersion(hits[:, some], past[:, some]), math.inf)
        return np.minimum(rows, np.where(known, np.minimum(high, np.maximum(low, shown)), reference))

    def _past(self, blocks: int) -> tuple[Ints, Ints]:
        """Hits and rows of the newest judged blocks, shapes (blocks, checks)."""
        hits, rows = self._state.hits[-blocks:], self._state.rows[-blocks:]
        shape = (len(rows), len(self.checks))
        return np.array(hits, np.int64).reshape(shape), np.array(rows, np.int64).reshape(shape)

    def _raise(self, some: NDArray[np.intp], at: float, threshold: float, quiet_blocks: int) -> None:
        state, log_e = self._state, np.array(self._state.log_e)
        log_e[some] = log_mean_exp(self._s)[some]
        state.log_e = log_e.tolist()
        crossed = set(some[log_e[some] >= threshold].tolist())
        for i in sorted(crossed | (state.alarms.keys() & some.tolist())):
            alarm = state.alarms.setdefault(i, Alarm())
            alarm.update(i in crossed, at, quiet_blocks, state.log_e[i])
            if not alarm.on:
                del state.alarms[i]
        self._s[sorted(crossed)] = 0.0

    def _raise_all(self, at: float, threshold: float, quiet_blocks: int) -> None:
        self._state.evidence = float(log_mean_exp(self._share.ravel()))
        crossed = self._state.evidence >= threshold
        if crossed:
            self._share = np.zeros_like(self._share)
        self._state.alarm.update(crossed, at, quiet_blocks, self._state.evidence)

    def _remember(self, table: Ints) -> None:
        """Which value each feature would be stuck at."""
        most = np.where(self._inside, table, -1).argmax(1).tolist()
        there = np.logical_and(table.any(1), self._inside.any(1)).tolist()
        self._state.stuck |= {name: cell for name, cell, some in zip(self.laws, most, there, strict=True) if some}


class _Facts(NamedTuple):
    """What the reference says of a check: its share, the bound of that, how clustered the rows in its cell are."""

    theta: float
    bound: float
    design_effect: float
    block_rows: float = 0.0
    least: float = 0.0  # bounds of D - 1, as from `clustering`
    most: float = 0.0


def _checks(law: Marginal) -> Iterator[tuple[str, int | None]]:
    """Names and cells of what is checked in a feature of this law."""
    last = law.size - 1
    yield "missing", last
    if law.kind == "numeric":
        yield from (("below", 0), ("above", last - 1))
    else:
        yield "unseen", last - 1
    if _inner(law)[0] < _inner(law)[1]:
        yield "constant", None


def _inner(law: Marginal) -> tuple[int, int]:
    """The cells in which a stuck value may lie, from the first to before the last: bins, or common categories."""
    return (1, law.size - 2) if law.kind == "numeric" else (0, len(law.categories))


def _insides(laws: Mapping[str, Marginal]) -> NDArray[np.bool_]:
    """Which cells are inner ones, shape (features, cells)."""
    ends = np.array([_inner(law) for law in laws.values()], np.intp).reshape(-1, 2)
    cell = np.arange(max((law.size for law in laws.values()), default=1))
    return np.asarray((cell >= ends[:, :1]) & (cell < ends[:, 1:]))


def _facts(law: Marginal, check: Check) -> _Facts:
    first, end = _inner(law)
    cell = first + int(np.argmax(law.counts[first:end])) if check.cell is None else check.cell
    effects = law.dispersions or (law.design_effect,) * law.size
    design_effect = max(effects) if check.cell is None else effects[cell]
    theta, least = (law.counts[cell] + 0.5) / (law.rows + 1), STUCK if check.cell is None else 0.0
    bound = upper_bound_of_share(law.counts[cell] / design_effect, law.rows / design_effect, law.alpha)
    clustered = clustering(law, design_effect) if law.block_rows > 1 else (0.0, 0.0)
    return _Facts(max(theta, least), max(theta, bound, least), design_effect, law.block_rows, *clustered)


def _dispersion(hits: Ints, rows: Ints) -> Floats:
    """Design effect of the rows in one cell, from past blocks, shapes (blocks, checks); 1 where there are too few."""
    n, blocks = rows.sum(0), (rows > 0).sum(0)
    share = hits.sum(0) / np.maximum(n, 1)
    varied = (share > 0) & (share < 1) & (blocks > 1)
    variance = np.where(varied, share * (1 - share), 1.0) * np.maximum(rows, 1)
    spread = ((hits - rows * share) ** 2 / variance).sum(0) / np.maximum(blocks - 1, 1)
    return np.where(varied, np.maximum(1.0, spread), 1.0)
