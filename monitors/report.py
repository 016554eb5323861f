"""What the monitors say at one moment: the document of ``GET /verdicts`` and the numbers behind ``GET /metrics``."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from monitors.aggregator import Budget, Verdicts
from monitors.alarm import Severity
from monitors.book import Book, span_s
from monitors.capture.figures import Figures
from monitors.checkup import Checks
from monitors.court import Judged
from monitors.drift.watch import DriftVerdict
from monitors.drift.which import Which
from monitors.fairness import Disparity, TooFew
from monitors.ledger import Ledger, Name
from monitors.parcel import Marks, Tally
from monitors.risk import RiskVerdict
from monitors.scorecard import Metrics, scorecard
from serving.config import Monitors

STALE_BLOCKS = 2  # without a row for as long, a verdict says nothing about now


class Delay(msgspec.Struct, frozen=True):
    """Quantiles of label time minus prediction time, to a factor of 1.2; None without labels."""

    p50: float | None
    p99: float | None
    p05: float | None = None
    p95: float | None = None


class Labels(msgspec.Struct, frozen=True):
    """`parked` and `unknown` are of the model, the rest of the version. `coverage_ratio` is of what is past the
    horizon; None before anything is."""

    joined: int
    expected: int
    parked: int
    unknown: int
    coverage_ratio: float | None
    delay_s: Delay
    corrected: int
    reused_ids: int
    sampled_out: int
    late: int = 0  # came after their seal: in the metrics, not in the evidence
    still_expected: float = 0.0  # within the horizon, by the delays so far


class Risk(msgspec.Struct, frozen=True):
    """`mean` and `n` are of all labels so far; evidence and bound are of sealed blocks alone."""

    mean: float | None
    n: int
    log_e: float
    threshold: float
    alarm: bool
    bound: float
    coverage: float
    state: str
    since: float | None
    blocks: int
    note: str
    severity: Severity = "page"
    promise: str = ""


class VersionReport(msgspec.Struct, frozen=True):
    digest: str
    state: str
    drift: dict[str, DriftVerdict]
    risk: Risk
    labels: Labels
    rows: int
    late_rows: int
    failed_rows: int
    promise: str
    notes: tuple[str, ...]
    which: tuple[Which, ...] = ()  # the features that drifted, the strongest evidence first
    order: int = 0  # the number of the newest order that was carried out
    metrics: Metrics = {}
    segments: dict[str, dict[str, Metrics | TooFew]] = {}  # by feature and segment
    fairness: dict[str, dict[str, Disparity]] = {}  # by feature and rate
    metrics_assumption: str = ""
    checks: Checks | None = None  # data quality, calibration, estimated risk, coverage, the monitor's test of itself


class Document(msgspec.Struct, frozen=True):
    """``GET /verdicts``. `clock` is None before the first record.

    `settled` says that nothing waits to be judged: all rows that were written are read, and all that was sealed is
    taken.
    """

    clock: float | None
    lost_rows: int
    lag_s: float
    dropped_rows: dict[str, int]
    settled: bool
    models: dict[str, dict[str, VersionReport]]
    budget: Budget | None = None


@dataclass(frozen=True)
class Report:
    """`own` is what this node counted. `document`, of all nodes, and what is judged: only of the one that judges.

    Nothing in it changes any more.
    """

    own: Tally
    document: Document | None
    verdicts: dict[Name, Verdicts]
    lost_frames: int
    sampling_ratio: float
    cpu_s: float
    gone_rows: int = 0
    capture: Figures = field(default_factory=Figures)
    superseded_rows: int = 0


def report(
    node: str, own: Tally, judged: Judged | None, settings: Monitors, *, now: float, stale: bool, lost_frames: int,
    sampling_ratio: float, cpu_s: float,
) -> Report:  # fmt: skip
    """The state of a node, and of all where `judged` is given. `stale` says that rings or registry could not be read;
    `now` is the wall clock.
    """
    if judged is None:
        return Report(own, None, {}, lost_frames, sampling_ratio, cpu_s)
    tallies = judged.tallies | {node: own}
    whole = add_up(tallies.values())
    lag_s = max(tallies[name].lag_s for name in {node, *judged.live} & tallies.keys())
    dropped = whole.dropped | {"gone": judged.gone_rows, "superseded": judged.superseded_rows}
    settled = lag_s == 0 and all(judged.marks.get(name, Marks()) >= tally.marks for name, tally in tallies.items())
    models: dict[str, dict[str, VersionReport]] = {}
    for (model, version), verdict in sorted(judged.verdicts.items()):
        found = _version(verdict, whole, (model, version), settings, now, stale)
        models.setdefault(model, {})[version] = found
    return Report(
        own=own,
        document=Document(whole.clock, dropped.get("lost", 0), lag_s, dropped, settled, models, judged.budget),
        verdicts=judged.verdicts,
        lost_frames=lost_frames,
        sampling_ratio=sampling_ratio,
        cpu_s=cpu_s,
        gone_rows=judged.gone_rows,
        superseded_rows=judged.superseded_rows,
    )


def add_up(tallies: Iterable[Tally]) -> Tally:
    """What all nodes counted together."""
    books: dict[Name, Book] = {}
    parked, unknown, dropped = Counter[str](), Counter[str](), Counter[str]()
    clocks = []
    for tally in tallies:
        for model, version, book in tally.books:
            if (model, version) in books:
                books[model, version].add(book)
            else:
                books[model, version] = book.copy()
        parked.update(tally.parked)
        unknown.update(tally.unknown)
        dropped.update(tally.dropped)
        clocks += [tally.clock] if tally.clock is not None else []
    return Tally(
        clock=max(clocks, default=None),
        books=tuple((*name, book) for name, book in books.items()),
        parked=dict(parked), unknown=dict(unknown), dropped=dict(dropped),
    )  # fmt: skip


def dropped_rows(ledger: Ledger) -> dict[str, int]:
    """Rows that are not in the evidence although they should be, by reason; every reason, also where it is 0."""
    books = ledger.books.values()
    reasons = ("lost", "undecodable", "unknown_version", "unreadable", "undelivered")
    return {reason: ledger.marks.dropped.get(reason, 0) for reason in reasons} | {
        "late": sum(book.late for book in books),
        "misdated": sum(book.misdated for book in books),
        "label_budget": sum(book.sampled_out for book in books),
    }


def _version(verdict: Verdicts, whole: Tally, name: Name, settings: Monitors, now: float, stale: bool) -> VersionReport:
    book = next((book for *of, book in whole.books if tuple(of) == name), None) or Book(verdict.digest)
    old = stale or _stale(book, whole.clock, now, settings)
    still = book.still_expected(whole.clock, span_s(settings)) if whole.clock is not None else 0.0
    card = scorecard(book.tables, settings.min_group_rows)
    return VersionReport(
        digest=verdict.digest, state=_state(verdict.state, old), drift=verdict.drift, risk=_risk(verdict.risk, book),
        labels=_labels(book, whole.parked.get(name[0], 0), whole.unknown.get(name[0], 0), still), rows=book.rows,
        late_rows=book.late, failed_rows=book.failed, promise=verdict.promise, notes=verdict.notes,
        which=verdict.which, order=verdict.order, metrics=card.metrics, segments=card.segments, fairness=card.fairness,
        metrics_assumption=card.assumption, checks=verdict.checks,
    )  # fmt: skip


def _state(judged: str, stale: bool) -> str:
    """An old `ok` is none; an alarm stays one until something newer is judged."""
    return "stale" if stale and judged == "ok" else judged


def _stale(book: Book, clock: float | None, now: float, settings: Monitors) -> bool:
    patience_s = STALE_BLOCKS * settings.block_s + settings.slot_s + settings.lateness_s
    return now - book.seen > patience_s or (clock is not None and clock - book.last_time > patience_s)


def _risk(verdict: RiskVerdict, book: Book) -> Risk:
    return Risk(
        book.mean_loss, book.joined, verdict.log_e, verdict.threshold, verdict.alarm, verdict.bound,
        verdict.coverage, verdict.state, verdict.since, verdict.blocks, verdict.note, verdict.severity, verdict.promise,
    )  # fmt: skip


def _labels(book: Book, parked: int, unknown: int, still_expected: float) -> Labels:
    delay = Delay(*(book.delay_quantile_s(q) for q in (0.5, 0.99, 0.05, 0.95)))
    return Labels(
        book.joined, book.expected, parked, unknown, book.coverage, delay, book.corrected, book.reused,
        book.sampled_out, book.late_labels, still_expected,
    )  # fmt: skip
