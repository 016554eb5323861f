"""Running totals of one version: everything that is counted once and never judged, and the delays of its labels."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.adoption import Edition
from monitors.labels import UNSAID, Match, Truth
from monitors.loss import Risk, losses
from monitors.metrics import Plan
from monitors.reference import PREDICTION, Profile
from monitors.schema import mismatches
from monitors.slot import CLASSES, LOSS_UNIT
from monitors.tables import Tables
from serving.config import Monitors
from serving.manifest import Manifest

DELAYS_S: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(49))  # bounds of the delay histogram, 1 s to 194 days

SPANS = 64  # of time in a label horizon, by which waiting predictions are counted

Floats = NDArray[np.float64]

_SUMS = (
    "rows", "failed", "late", "misdated", "expected", "sampled_out", "reused", "joined", "corrected", "loss", "due",
    "due_labelled", "delay_s", "late_labels",
)  # fmt: skip


class Version(msgspec.Struct, frozen=True):
    """What is known of a version: its manifest, and the profile of its training data where it has one."""

    manifest: Manifest
    profile: Profile | None = None
    broken: str = ""  # why the profile cannot be read
    later: tuple[Edition, ...] = ()  # references that came after its publication, by their first slot

    @property
    def takes_labels(self) -> bool:
        """Whether a label makes a loss: regression needs the cap that the profile holds."""
        manifest = self.manifest
        scaled = manifest.task == "classification" or (self.profile is not None and self.profile.risk is not None)
        return manifest.prediction is not None and manifest.task is not None and scaled

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say what is not monitored, and why."""
        manifest = self.manifest
        lacks = {
            f"drift is not monitored: {self.broken or 'the version has no reference profile'}": self.profile is None,
            "features are not monitored: the version declares none": not manifest.features,
            "predictions are not monitored: the version does not say which output is the prediction": (
                manifest.prediction is None
            ),
            "labels are not monitored: the version declares no task": manifest.task is None,
            "labels are not monitored: the scale of a regression's loss needs a reference with labels": (
                manifest.task is not None and manifest.prediction is not None and not self.takes_labels
            ),
        }
        return (*(note for note, holds in lacks.items() if holds), *self.mismatches)

    @property
    def mismatches(self) -> tuple[str, ...]:
        """Where the profile is of another schema than the version."""
        return mismatches(self.profile, self.manifest) if self.profile else ()

    def order(self, slot: int) -> int:
        """The order that brought the reference with which a slot is counted; 0: it came with the publication."""
        return next((edition.order for edition in reversed(self.later) if edition.since <= slot), 0)

    def divided(self, slots: NDArray[np.int64]) -> Iterator[tuple[str, Profile, NDArray[np.bool_]]]:
        """The references with which rows are counted, by the slot of each, shape (n,): the digest (empty: it came with
        the publication), the profile, and which rows these are.
        """
        profiles = [("", self.profile), *((edition.digest, edition.profile) for edition in self.later)]
        which = np.searchsorted([edition.since for edition in self.later], slots, side="right")
        for number, (digest, profile) in enumerate(profiles):
            if profile is not None and (mine := which == number).any():
                yield digest, profile, mine

    def unreferenced(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have no reference, by the slot of each, shape (n,)."""
        profiles = [self.profile, *(edition.profile for edition in self.later)]
        which = np.searchsorted([edition.since for edition in self.later], slots, side="right")
        return np.array([profile is None for profile in profiles])[which]


class Book(msgspec.Struct):
    """Rows and labels of one version since it was first seen. `loss` is in units of 2**-32."""

    digest: str
    task: Literal["classification", "regression"] | None = None
    cap: float = 1.0
    rows: int = 0
    failed: int = 0  # rows of requests that got an error
    late: int = 0  # rows that came after their slot was sealed
    misdated: int = 0  # rows whose event time is no time, or lies in the future
    expected: int = 0  # predictions that wait or waited for a label
    sampled_out: int = 0  # predictions that do not, since the store is too full
    reused: int = 0  # predictions under an id that was used before
    joined: int = 0
    corrected: int = 0  # truths that a later one replaced
    loss: int = 0
    due: int = 0  # predictions in sealed label slots, and how many of them had a label then
    due_labelled: int = 0
    last_time: float = 0.0  # largest event time of a row that was answered and could be read
    seen: float = 0.0  # wall clock when such a row was last read
    delay_s: float = 0.0
    delays: list[int] = msgspec.field(default_factory=lambda: [0] * (len(DELAYS_S) + 1))
    late_labels: int = 0  # joined after the seal: they enter the metrics, never the evidence
    waiting: dict[int, int] = {}  # predictions without a label in slots that are open for them, by span of time
    tables: Tables | None = None
    lows: tuple[float, ...] = ()  # where the bins of the calibration table begin; of probabilities alone
    cells: tuple[int, ...] = ()  # how many of them the features have by which losses are told

    @classmethod
    def of(cls, version: Version) -> "Book":
        risk = version.profile.risk if version.profile else None
        task = version.manifest.task if version.takes_labels else None
        cap = risk.cap if risk else 1.0
        tables = _tables(version, cap) if task else None
        return cls(version.manifest.digest, task, cap, tables=tables, lows=_lows(risk), cells=_cells(version))

    def fits(self, version: Version) -> bool:
        """Whether it counts this content under this declaration."""
        manifest, tables = version.manifest, self.tables
        if tables is None:
            return self.digest == manifest.digest
        plan = tables.plan
        counted = self.digest, plan.threshold, plan.quantile, (plan.low, plan.high), tables.segments
        declared = manifest.threshold, manifest.quantile, manifest.kpi_range or (0.0, 0.0), manifest.segments
        return counted == (manifest.digest, *declared)

    def copy(self) -> "Book":
        tables = self.tables.copy() if self.tables else None
        return msgspec.structs.replace(self, delays=[*self.delays], waiting={**self.waiting}, tables=tables)

    def add(self, other: "Book") -> None:
        """Add what another node counted of the version."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_time, self.seen = max(self.last_time, other.last_time), max(self.seen, other.seen)
        self.delays = [a + b for a, b in zip(self.delays, other.delays, strict=True)]
        for span, rows in other.waiting.items():
            self.wait(span, rows)
        if self.tables is None:
            self.tables = other.tables and other.tables.copy()
        elif other.tables is not None:
            self.tables.add(other.tables)

    def wait(self, span: int, rows: int) -> None:
        """Let so many more predictions of a span of time wait for a label."""
        self.waiting[span] = self.waiting.get(span, 0) + rows
        if not self.waiting[span]:
            del self.waiting[span]

    @property
    def mean_loss(self) -> float | None:
        """Of all labels so far, 0..1; None before the first."""
        return self.loss * LOSS_UNIT / self.joined if self.joined else None

    @property
    def coverage(self) -> float | None:
        """Share of the predictions past the horizon that had a label by then; None before there are any."""
        return self.due_labelled / self.due if self.due else None

    def refusal(self, label: float) -> str | None:
        """Why a label cannot be judged, else None."""
        if self.task == "classification" and label not in CLASSES:
            return f"label of a classification must be 0 or 1, got {label:g}"
        return None

    def follow(self, matches: list[Match]) -> list[tuple[int, int]]:
        """Count what changed; by match the change of labelled rows and of the loss.

        A truth that cannot be judged is none: it was parked while nobody knew the task.
        """
        values = np.array([match.prediction.value for match in matches])
        befores = self._judged(match.before for match in matches)
        afters = self._judged(match.after for match in matches)
        before, after = _labels(befores), _labels(afters)
        labelled = np.subtract(after == after, before == before, dtype=np.int64)
        loss = self._units(values, after) - self._units(values, before)
        self.corrected += int(((before == before) & (after == after)).sum())
        self.joined += int(labelled.sum())
        self.loss += int(loss.sum())
        asked = np.array([match.prediction.time for match in matches])
        self._delayed(asked, befores, -1)
        self._delayed(asked, afters, 1)
        if self.tables is not None:
            codes = np.array([match.prediction.segment for match in matches])
            labels, signs = np.concatenate([before, after]), np.repeat([-1, 1], len(matches))
            kpis = _kpis(befores + afters)
            known, twice = labels == labels, (np.tile(values, 2), labels, signs, np.tile(codes, 2), kpis)
            self.tables.follow(*(column[known] for column in twice))
        return list(zip(labelled.tolist(), loss.tolist(), strict=True))

    def delay_quantile_s(self, q: float) -> float | None:
        """Geometric middle of the bucket that holds the quantile; None without labels.

        >>> book = Book("d", delays=[0] * 8 + [10] + [0] * 41)
        >>> round(book.delay_quantile_s(0.5), 1), DELAYS_S[7:9]
        (13.5, (11.313708498984761, 16.0))
        """
        total = np.cumsum(self.delays)
        if not total[-1]:
            return None
        bucket = min(int(np.searchsorted(total, q * total[-1])), len(DELAYS_S) - 1)
        return DELAYS_S[bucket] * (math.sqrt(math.sqrt(0.5)) if bucket else 1.0)

    def still_expected(self, clock: float, span_s: float) -> float:
        """Labels that waiting predictions will get yet, on average, by the delays and the coverage so far.

        A share c of predictions gets a label, F(a) of these within a seconds: one without a label at age a gets one
        with probability c (1 - F(a)) / (1 - c F(a)). Early on F knows the fast labels alone, and this is too small.

        >>> book = Book("d", waiting={0: 100}, due=10, due_labelled=8, delays=[0] * 8 + [10] * 2 + [0] * 40)
        >>> book.still_expected(5.5, 1.0), round(book.still_expected(16.5, 1.0), 1), book.still_expected(99.0, 1.0)
        (80.0, 66.7, 0.0)
        """
        coverage, total = 1.0 if self.coverage is None else self.coverage, np.cumsum([0, *self.delays])
        spans = np.array(sorted(self.waiting))
        age = clock - (spans + 0.5) * span_s
        come = total[np.searchsorted(DELAYS_S, age, side="right")] / max(int(total[-1]), 1)
        rows, never = np.array([self.waiting[span] for span in spans.tolist()]), 1 - coverage * come
        later = np.divide(coverage * (1 - come), never, out=np.zeros(len(spans)), where=never > 0)
        return float((rows * later).sum())

    def _units(self, values: Floats, labels: Floats) -> NDArray[np.int64]:
        """Losses in units of 2**-32; 0 where there is no label."""
        loss = losses(self.task or "classification", self.cap, values, labels)
        return np.rint(np.where(labels == labels, loss, 0.0) / LOSS_UNIT).astype(np.int64)

    def _judged(self, truths: Iterable[Truth | None]) -> list[Truth | None]:
        """Those that cannot be judged are None."""
        return [None if truth is None or self.refusal(truth.label) else truth for truth in truths]

    def _delayed(self, asked: Floats, truths: list[Truth | None], sign: int) -> None:
        pairs, delays = zip(truths, asked.tolist(), strict=True), np.array(self.delays)
        found = np.array([max(truth.time - time, 0.0) for truth, time in pairs if truth])
        np.add.at(delays, np.searchsorted(DELAYS_S, found), sign)
        self.delay_s += sign * float(found.sum())
        self.delays = delays.tolist()


def span_s(settings: Monitors) -> float:
    """Seconds of a span of time."""
    return max(settings.label_horizon_s / SPANS, settings.slot_s)


def _labels(truths: Iterable[Truth | None]) -> Floats:
    """NaN where there is none."""
    return np.array([truth.label if truth else math.nan for truth in truths])


def _lows(risk: Risk | None) -> tuple[float, ...]:
    return tuple(bin.low for bin in risk.calibration) if risk and risk.task == "classification" else ()


def _cells(version: Version) -> tuple[int, ...]:
    losses = version.profile.losses if version.profile and version.takes_labels else None
    return losses.sizes if losses else ()


def _kpis(truths: Iterable[Truth | None]) -> Floats:
    """The label where none was sent, NaN where there is neither."""
    known = ((truth.label if truth.kpi == UNSAID else truth.kpi) if truth else math.nan for truth in truths)
    return np.array(list(known))


def _tables(version: Version, cap: float) -> Tables:
    """Rows of clusters are worth as many as the more clustered of loss and prediction in the reference says."""
    manifest, profile = version.manifest, version.profile
    assert manifest.task is not None
    effects = [1.0]
    if profile is not None:
        effects += [profile.risk.design_effect] if profile.risk else []
        effects += [law.design_effect for name, law in profile.features.items() if name == PREDICTION]
    low, high = manifest.kpi_range or (0.0, 0.0)
    plan = Plan(manifest.task, manifest.threshold, manifest.quantile, cap, max(effects), low, high)
    return Tables(plan, manifest.segments)
