"""What the monitors say at one moment: the document of ``GET /verdicts`` and the numbers behind ``GET /metrics``."""

from dataclasses import dataclass

import msgspec

from monitors.aggregator import Aggregator, Verdicts
from monitors.book import Book
from monitors.drift.watch import DriftVerdict
from monitors.ledger import Ledger, Name
from monitors.risk import RiskVerdict
from serving.config import Monitors

STALE_BLOCKS = 2  # without a row for as long, a verdict says nothing about now


class Delay(msgspec.Struct, frozen=True):
    """Quantiles of label time minus prediction time, to a factor of 1.2; None without labels."""

    p50: float | None
    p99: float | None


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


class Document(msgspec.Struct, frozen=True):
    """``GET /verdicts``. `clock` is None before the first record."""

    clock: float | None
    lost_rows: int
    lag_s: float
    dropped_rows: dict[str, int]
    models: dict[str, dict[str, VersionReport]]


@dataclass(frozen=True)
class Report:
    """`document` for people, the rest for the exporter. Nothing in it changes any more."""

    document: Document
    verdicts: dict[Name, Verdicts]
    books: dict[Name, Book]
    lost_frames: int
    sampling_ratio: float
    cpu_s: float


def report(
    ledger: Ledger, aggregator: Aggregator, settings: Monitors, *, now: float, lag_s: float, stale: bool, cpu_s: float
) -> Report:
    """The state of a node. `stale` says that its rings could not be read; `now` is the wall clock."""
    marks = ledger.marks
    verdicts = {name: aggregator.verdicts(name) for name in aggregator.names}
    books = {name: _copy(ledger.books.get(name) or Book.of(aggregator.version(name))) for name in verdicts}
    models: dict[str, dict[str, VersionReport]] = {}
    for model, version in verdicts:
        verdict, book = verdicts[model, version], books[model, version]
        old = stale or _stale(book, marks.clock, now, settings)
        labels = _labels(book, ledger.store.parked[model], marks.unknown.get(model, 0))
        models.setdefault(model, {})[version] = VersionReport(
            digest=book.digest, state=_state(verdict.state, old), drift=verdict.drift, risk=_risk(verdict.risk, book),
            labels=labels, rows=book.rows, late_rows=book.late, failed_rows=book.failed,
            promise=verdict.promise, notes=verdict.notes,
        )  # fmt: skip
    dropped = dropped_rows(ledger)
    return Report(
        document=Document(marks.clock, dropped["lost"], lag_s, dropped, models),
        verdicts=verdicts,
        books=books,
        lost_frames=marks.lost_frames,
        sampling_ratio=ledger.store.probability,
        cpu_s=cpu_s,
    )


def dropped_rows(ledger: Ledger) -> dict[str, int]:
    """Rows that are not in the evidence although they should be, by reason; every reason, also where it is 0."""
    books = ledger.books.values()
    reasons = ("lost", "undecodable", "unknown_version", "unreadable")
    return {reason: ledger.marks.dropped.get(reason, 0) for reason in reasons} | {
        "late": sum(book.late for book in books),
        "misdated": sum(book.misdated for book in books),
        "label_budget": sum(book.sampled_out for book in books),
    }


def _state(judged: str, stale: bool) -> str:
    """An old `ok` is none; an alarm stays one until something newer is judged."""
    return "stale" if stale and judged == "ok" else judged


def _stale(book: Book, clock: float | None, now: float, settings: Monitors) -> bool:
    patience_s = STALE_BLOCKS * settings.block_s + settings.slot_s + settings.lateness_s
    return now - book.seen > patience_s or (clock is not None and clock - book.last_time > patience_s)


def _copy(book: Book) -> Book:
    return msgspec.structs.replace(book, delays=[*book.delays])


def _risk(verdict: RiskVerdict, book: Book) -> Risk:
    return Risk(
        book.mean_loss, book.joined, verdict.log_e, verdict.threshold, verdict.alarm, verdict.bound,
        verdict.coverage, verdict.state, verdict.since, verdict.blocks, verdict.note,
    )  # fmt: skip


def _labels(book: Book, parked: int, unknown: int) -> Labels:
    delay = Delay(book.delay_quantile_s(0.5), book.delay_quantile_s(0.99))
    return Labels(
        book.joined, book.expected, parked, unknown, book.coverage, delay, book.corrected, book.reused, book.sampled_out
    )
