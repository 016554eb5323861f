"""Every metric of the monitors: names, help, labels; a `Report` becomes Prometheus text.

The workers' metric pages of the node are added by a function that is passed in, so that one scrape has both sides.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from monitors.book import DELAYS_S, Book
from monitors.ledger import Name
from monitors.report import Report, VersionReport

STATES = ("ok", "alarm", "no_data", "stale", "unfit")
_MV = ("model", "version")
_MVF = (*_MV, "feature")
_DELAY_BOUNDS = range(0, len(DELAYS_S), 4)  # of the finer histogram in the book, the powers of 4


@dataclass(frozen=True)
class Spec:
    """One metric: what kind, a sentence of help, its labels."""

    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


NAMES: dict[str, Spec] = {
    "drift_effect": Spec("gauge", "Effect size of a feature over the newest judged blocks.", (*_MVF, "statistic")),
    "drift_log_e": Spec("gauge", "Evidence of drift in nats.", _MVF),
    "drift_threshold": Spec("gauge", "Evidence in nats at which the alarm is raised.", _MVF),
    "drift_alarm": Spec("gauge", "Whether the alarm is on (1) or off (0).", _MVF),
    "risk_mean": Spec("gauge", "Mean loss of all labelled rows, 0 to 1.", _MV),
    "risk_bound": Spec("gauge", "Mean loss above which evidence grows: the reference's bound plus tolerance.", _MV),
    "risk_log_e": Spec("gauge", "Evidence in nats that the loss rose above its bound.", _MV),
    "risk_threshold": Spec("gauge", "Evidence in nats at which the risk alarm is raised.", _MV),
    "risk_alarm": Spec("gauge", "Whether the risk alarm is on (1) or off (0).", _MV),
    "label_coverage_ratio": Spec("gauge", "Share of predictions past the label horizon that had a label by then.", _MV),
    "label_delay_seconds": Spec("histogram", "From a prediction's event time to that of its label.", _MV),
    "labels_joined": Spec("gauge", "Predictions that have a label.", _MV),
    "labels_expected": Spec("gauge", "Predictions that wait or waited for a label.", _MV),
    "labels_parked": Spec("gauge", "Labels that wait for their prediction.", ("model",)),
    "labels_unknown": Spec("gauge", "Labels that never met a prediction.", ("model",)),
    "label_sampling_ratio": Spec("gauge", "Probability with which a prediction is kept to wait for its label."),
    "missing_ratio": Spec("gauge", "Share of missing values in the newest blocks.", _MVF),
    "unseen_ratio": Spec("gauge", "Share of categories that the reference does not know, in the newest blocks.", _MVF),
    "out_of_range_ratio": Spec("gauge", "Share of numbers outside the reference's range, in the newest blocks.", _MVF),
    "design_effect": Spec("gauge", "Variance of the reference's block shares over that of independent rows.", _MVF),
    "monitor_state": Spec("gauge", "1 for the state that holds, else 0.", (*_MV, "state")),
    "monitor_last_verdict_timestamp_seconds": Spec("gauge", "When a block was last judged.", _MV),
    "monitor_rows_total": Spec("counter", "Rows read from the rings.", _MV),
    "monitor_lag_seconds": Spec("gauge", "Age of the oldest row that is not yet read; 0 when all are."),
    "monitor_dropped_total": Spec("counter", "Rows that are not in the evidence though they should be.", ("reason",)),
    "monitor_lost_frames_total": Spec("counter", "Records overwritten in a ring before they were read."),
    "monitor_cpu_seconds_total": Spec("counter", "Processor time of the sidecar."),
}

Sample = tuple[str, tuple[str, ...], float]
Workers = Callable[[], Iterable[Metric]]


class Exporter:
    """A collector over the newest report; `workers` gives the metric families of the node's gateway workers."""

    def __init__(self, newest: Callable[[], Report | None], workers: Workers = tuple) -> None:
        self._newest, self._workers = newest, workers

    def collect(self) -> Iterator[Metric]:
        yield from self._workers()
        report = self._newest()
        if report is not None:
            yield from families(report)


def text(report: Report | None, workers: Workers = tuple) -> bytes:
    """The text format that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(Exporter(lambda: report, workers))
    return generate_latest(registry)


def families(report: Report) -> Iterator[Metric]:
    """All metrics of a report, in the order of `NAMES`."""
    samples: dict[str, list[Sample]] = {name: [] for name in NAMES}
    for sample in _samples(report):
        samples[sample[0]].append(sample)
    for name, spec in NAMES.items():
        if spec.kind == "histogram":
            yield _delays(name, spec, report)
            continue
        kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        family = kind(f"gaugeway_{name}", spec.help, labels=spec.labels)
        for _, labels, value in samples[name]:
            family.add_metric(labels, value)
        yield family


def _samples(report: Report) -> Iterator[Sample]:
    yield from _of_node(report)
    document = report.document
    if document is None:  # another node judges, and exports it
        return
    yield "monitor_dropped_total", ("gone",), report.gone_rows
    for model, versions in document.models.items():
        for version in versions:
            yield from _of_version(report, document.models[model][version], (model, version))
            yield from _of_features(report, model, version)


def _of_node(report: Report) -> Iterator[Sample]:
    """What each node exports of its own; the sum over all nodes is the cluster's."""
    own = report.own
    yield "monitor_lag_seconds", (), own.lag_s
    yield "monitor_lost_frames_total", (), report.lost_frames
    yield "monitor_cpu_seconds_total", (), report.cpu_s
    yield "label_sampling_ratio", (), report.sampling_ratio
    for reason, rows in own.dropped.items():
        yield "monitor_dropped_total", (reason,), rows
    for model in sorted({model for model, *_ in (*own.versions, *own.books)}):
        yield "labels_parked", (model,), own.parked.get(model, 0)
        yield "labels_unknown", (model,), own.unknown.get(model, 0)
    for model, version, book in own.books:
        yield "labels_joined", (model, version), book.joined
        yield "labels_expected", (model, version), book.expected
        yield "monitor_rows_total", (model, version), book.rows


def _of_version(report: Report, found: VersionReport, at: Name) -> Iterator[Sample]:
    risk = found.risk
    values = {
        "risk_mean": risk.mean,
        "risk_bound": risk.bound,
        "risk_log_e": risk.log_e,
        "risk_threshold": risk.threshold,
        "risk_alarm": risk.alarm,
        "label_coverage_ratio": found.labels.coverage_ratio,
        "monitor_last_verdict_timestamp_seconds": report.verdicts[at].judged_at,
    }
    yield from ((name, at, float(value)) for name, value in values.items() if value is not None)
    yield from (("monitor_state", (*at, state), float(state == found.state)) for state in STATES)


def _of_features(report: Report, model: str, version: str) -> Iterator[Sample]:
    verdicts = report.verdicts[model, version]
    for feature, verdict in verdicts.drift.items():
        at = (model, version, feature)
        yield "drift_log_e", at, verdict.log_e
        yield "drift_threshold", at, verdict.threshold
        yield "drift_alarm", at, float(verdict.alarm)
        if verdict.n:
            yield "drift_effect", (*at, "psi"), verdict.psi
            yield "drift_effect", (*at, "ks"), verdict.ks
    for feature, effect in verdicts.design_effect.items():
        yield "design_effect", (model, version, feature), effect
    for feature, quality in verdicts.quality.items():
        ratios = {"missing": quality.missing, "unseen": quality.unseen, "out_of_range": quality.out_of_range}
        for name, ratio in ratios.items():
            if ratio is not None:
                yield f"{name}_ratio", (model, version, feature), ratio


def _delays(name: str, spec: Spec, report: Report) -> Metric:
    family = HistogramMetricFamily(f"gaugeway_{name}", spec.help, labels=spec.labels)
    for *labels, book in report.own.books:
        family.add_metric(labels, _buckets(book), book.delay_s)
    return family


def _buckets(book: Book) -> list[tuple[str, float]]:
    bounds = [(str(DELAYS_S[i]), float(sum(book.delays[: i + 1]))) for i in _DELAY_BOUNDS]
    return [*bounds, ("+Inf", float(sum(book.delays)))]
