"""Every metric of the monitors: names, help, labels; a `Report` becomes Prometheus text.

The workers' metric pages of the node are added by a function that is passed in, so that one scrape has both sides.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import UnsetType
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from monitors.book import DELAYS_S, Book
from monitors.budget import ALL, COVERAGE, QUALITY, RISK
from monitors.capture.figures import Figures
from monitors.checkup import CALIBRATION, Checks
from monitors.drift import EFFECTS
from monitors.ledger import Name
from monitors.report import Report, VersionReport

STATES = ("ok", "alarm", "no_data", "learning", "stale", "unfit")
_MV = ("model", "version")
_MVF = (*_MV, "feature")
_MVFC = (*_MVF, "check")
_MVSM, _MVFR = (*_MV, "segment", "metric"), (*_MVF, "rate")
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
    "drift_declared": Spec("gauge", "Whether the feature is among those that drifted, by e-d-BH (1) or not (0).", _MVF),
    "alarm_severity": Spec("gauge", "1 for the severity of an alarm: page, ticket, info.", (*_MVF, "severity")),
    "alarm_pagers": Spec("gauge", "Alarms that page or open a ticket, which share the budget of false alarms."),
    "risk_mean": Spec("gauge", "Mean loss of all labelled rows, 0 to 1.", _MV),
    "risk_bound": Spec("gauge", "Mean loss above which evidence grows: the reference's bound plus tolerance.", _MV),
    "risk_log_e": Spec("gauge", "Evidence in nats that the loss rose above its bound.", _MV),
    "risk_threshold": Spec("gauge", "Evidence in nats at which the risk alarm is raised.", _MV),
    "risk_alarm": Spec("gauge", "Whether the risk alarm is on (1) or off (0).", _MV),
    "label_coverage_ratio": Spec("gauge", "Share of predictions past the label horizon that had a label by then.", _MV),
    "label_delay_seconds": Spec("histogram", "From a prediction's event time to that of its label.", _MV),
    "labels_late": Spec("gauge", "Labels that came after their seal: in the metrics, not in the evidence.", _MV),
    "labels_still_expected": Spec("gauge", "Labels that waiting predictions will get yet, by the delays so far.", _MV),
    "labels_doubled_total": Spec("counter", "Labels that said what was known."),
    "labels_conflicting_total": Spec("counter", "Labels that contradicted another one of the same row."),
    "labels_unusable_total": Spec("counter", "Labels that came before their version was known, and cannot be judged."),
    "model_metric": Spec("gauge", "A metric of the labelled rows; segment `_all` is the version.", _MVSM),
    "model_metric_lower": Spec("gauge", "Lower end of the metric's confidence sequence.", _MVSM),
    "model_metric_upper": Spec("gauge", "Upper end of the metric's confidence sequence.", _MVSM),
    "model_metric_rows": Spec("gauge", "Labelled rows that the metric is about.", _MVSM),
    "fairness_difference": Spec("gauge", "Largest less smallest rate of a feature's segments.", _MVFR),
    "fairness_difference_lower": Spec("gauge", "Lower end of its confidence sequence.", _MVFR),
    "fairness_difference_upper": Spec("gauge", "Upper end of its confidence sequence.", _MVFR),
    "labels_joined": Spec("gauge", "Predictions that have a label.", _MV),
    "labels_expected": Spec("gauge", "Predictions that wait or waited for a label.", _MV),
    "labels_parked": Spec("gauge", "Labels that wait for their prediction.", ("model",)),
    "labels_unknown": Spec("gauge", "Labels that never met a prediction.", ("model",)),
    "label_sampling_ratio": Spec("gauge", "Probability with which a prediction is kept to wait for its label."),
    "quality_ratio": Spec("gauge", "Share of a feature's rows that a check finds, in the newest blocks.", _MVFC),
    "quality_reference_ratio": Spec("gauge", "The same share in the reference.", _MVFC),
    "quality_log_e": Spec("gauge", "Evidence in nats that a check finds more rows than in the reference.", _MVFC),
    "quality_threshold": Spec("gauge", "Evidence in nats at which an alarm of data quality is raised.", _MV),
    "quality_alarm": Spec("gauge", "Whether the alarm is on (1) or off (0).", _MVFC),
    "calibration_log_e": Spec("gauge", "Evidence in nats that labels contradict the calibrated probabilities.", _MV),
    "calibration_threshold": Spec("gauge", "Evidence in nats at which the alarm of calibration is raised.", _MV),
    "calibration_alarm": Spec("gauge", "Whether the alarm of calibration is on (1) or off (0).", _MV),
    "calibration_expected_ratio": Spec("gauge", "Mean calibrated probability of the newest labelled rows.", _MV),
    "calibration_realised_ratio": Spec("gauge", "Share of the newest labelled rows whose label is 1.", _MV),
    "risk_estimate": Spec("gauge", "Mean loss of the newest rows as the calibrated probabilities have it.", _MV),
    "risk_estimate_believable": Spec("gauge", "Whether nothing speaks against the estimate (1) or not (0).", _MV),
    "label_coverage_log_e": Spec("gauge", "Evidence in nats that labels stay away.", _MV),
    "label_coverage_threshold": Spec("gauge", "Evidence in nats at which the alarm of coverage is raised.", _MV),
    "label_coverage_alarm": Spec("gauge", "Whether the alarm of coverage is on (1) or off (0).", _MV),
    "label_coverage_usual_ratio": Spec("gauge", "Labelled share of the version's first blocks.", _MV),
    "monitor_self_test": Spec("gauge", "Whether the monitor's test of itself passed (1) or not (0).", (*_MV, "check")),
    "design_effect": Spec("gauge", "Variance of the reference's block shares over that of independent rows.", _MVF),
    "effective_rows": Spec("gauge", "Independent rows that the reference's clustered ones are worth.", _MVF),
    "correlation_seconds": Spec("gauge", "How long block shares of the reference stay alike; 0: not seen to.", _MVF),
    "monitor_state": Spec("gauge", "1 for the state that holds, else 0.", (*_MV, "state")),
    "monitor_last_verdict_timestamp_seconds": Spec("gauge", "When a block was last judged.", _MV),
    "monitor_rows_total": Spec("counter", "Rows read from the rings.", _MV),
    "monitor_lag_seconds": Spec("gauge", "Age of the oldest row that is not yet read; 0 when all are."),
    "monitor_dropped_total": Spec("counter", "Rows that are not in the evidence though they should be.", ("reason",)),
    "monitor_lost_frames_total": Spec("counter", "Records overwritten in a ring before they were read."),
    "monitor_cpu_seconds_total": Spec("counter", "Processor time of the sidecar."),
    "capture_rows_total": Spec("counter", "Rows written to the capture log.", _MV),
    "capture_bytes_total": Spec("counter", "Bytes of the rows written to the capture log, before compression.", _MV),
    "capture_stored_bytes": Spec("gauge", "Bytes of the capture log on disk.", _MV),
    "capture_dropped_total": Spec("counter", "Rows that could not be captured.", ("reason",)),
    "capture_expired_rows_total": Spec("counter", "Captured rows removed for their age or for room.", ("reason",)),
    "capture_lag_seconds": Spec("gauge", "Age of the newest captured row while there is more to capture, else 0."),
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
    yield from _of_capture(report.capture)
    document = report.document
    if document is None:  # another node judges, and exports it
        return
    yield "monitor_dropped_total", ("gone",), report.gone_rows
    yield "monitor_dropped_total", ("superseded",), report.superseded_rows
    if document.budget is not None:
        yield "alarm_pagers", (), document.budget.pagers
    for model, versions in document.models.items():
        for version in versions:
            yield from _of_version(report, document.models[model][version], (model, version))
            yield from _of_features(report, model, version)
            yield from _of_checks(report.verdicts[model, version].checks, (model, version))
            yield from _of_metrics(document.models[model][version], (model, version))


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
    yield "labels_doubled_total", (), own.doubled
    yield "labels_conflicting_total", (), own.conflicting
    yield "labels_unusable_total", (), own.unusable
    for model, version, book in own.books:
        yield "labels_joined", (model, version), book.joined
        yield "labels_expected", (model, version), book.expected
        yield "monitor_rows_total", (model, version), book.rows


def _of_capture(capture: Figures) -> Iterator[Sample]:
    for name, written in capture.written.items():
        yield "capture_rows_total", name, written.rows
        yield "capture_bytes_total", name, written.bytes
    for name, size in capture.stored.items():
        yield "capture_stored_bytes", name, size
    yield from (("capture_dropped_total", (reason,), rows) for reason, rows in capture.dropped.items())
    yield from (("capture_expired_rows_total", (reason,), rows) for reason, rows in capture.expired.items())
    if capture.lag_s is not None:
        yield "capture_lag_seconds", (), capture.lag_s


def _of_version(report: Report, found: VersionReport, at: Name) -> Iterator[Sample]:
    risk = found.risk
    values = {
        "risk_mean": risk.mean,
        "risk_bound": risk.bound,
        "risk_log_e": risk.log_e,
        "risk_threshold": risk.threshold,
        "risk_alarm": risk.alarm,
        "label_coverage_ratio": found.labels.coverage_ratio,
        "labels_late": found.labels.late,
        "labels_still_expected": found.labels.still_expected,
        "monitor_last_verdict_timestamp_seconds": report.verdicts[at].judged_at,
    }
    yield from ((name, at, float(value)) for name, value in values.items() if value is not None)
    yield "alarm_severity", (*at, RISK, risk.severity), 1.0
    yield from (("monitor_state", (*at, state), float(state == found.state)) for state in STATES)


def _of_metrics(found: VersionReport, at: Name) -> Iterator[Sample]:
    """Of all rows, and of segments that have enough of them."""
    shown = {"_all": found.metrics} | {
        f"{feature}={name}": metrics
        for feature, segments in found.segments.items()
        for name, metrics in segments.items()
        if isinstance(metrics, dict)
    }
    for segment, metrics in shown.items():
        for name, metric in metrics.items():
            ends = {"": metric.value, "_lower": metric.lower, "_upper": metric.upper, "_rows": metric.n}
            yield from ((f"model_metric{end}", (*at, segment, name), value) for end, value in ends.items())
    for feature, rates in found.fairness.items():
        for rate, disparity in rates.items():
            if gap := disparity.difference:
                ends = {"": gap.value, "_lower": gap.lower, "_upper": gap.upper}
                labels = (*at, feature, rate)
                yield from ((f"fairness_difference{end}", labels, value) for end, value in ends.items())


def _of_features(report: Report, model: str, version: str) -> Iterator[Sample]:
    verdicts = report.verdicts[model, version]
    declared = {which.feature for which in verdicts.which}
    for feature, verdict in verdicts.drift.items():
        at = (model, version, feature)
        yield "drift_log_e", at, verdict.log_e
        yield "drift_threshold", at, verdict.threshold
        yield "drift_alarm", at, float(verdict.alarm)
        yield "alarm_severity", (*at, verdict.severity), 1.0
        if feature != ALL:
            yield "drift_declared", at, float(feature in declared)
        if verdict.n:
            sizes = ((name, getattr(verdict, name)) for name in EFFECTS)
            yield from (("drift_effect", (*at, name), size) for name, size in sizes if size is not None)
    for feature, effect in verdicts.design_effect.items():
        yield "design_effect", (model, version, feature), effect
    for feature, law in verdicts.laws.items():
        yield "effective_rows", (model, version, feature), law.effective_rows
        if not isinstance(law.correlation_s, UnsetType):
            yield "correlation_seconds", (model, version, feature), law.correlation_s


def _of_checks(checks: Checks, at: Name) -> Iterator[Sample]:
    quality, calibration, estimate, coverage = checks.quality, checks.calibration, checks.estimate, checks.coverage
    for feature, found in quality.checks.items():
        for name, check in found.items():
            yield "quality_ratio", (*at, feature, name), check.ratio
            yield "quality_reference_ratio", (*at, feature, name), check.reference
            yield "quality_log_e", (*at, feature, name), check.log_e
            yield "quality_alarm", (*at, feature, name), float(check.alarm)
    yield "quality_log_e", (*at, ALL, ALL), quality.log_e
    yield "quality_alarm", (*at, ALL, ALL), float(quality.alarm)
    judged = calibration.state != "unfit"
    values = {
        "quality_threshold": quality.threshold,
        "calibration_log_e": calibration.log_e if judged else None,
        "calibration_threshold": calibration.threshold if judged else None,
        "calibration_alarm": calibration.alarm if judged else None,
        "calibration_expected_ratio": calibration.expected,
        "calibration_realised_ratio": calibration.realised,
        "risk_estimate": estimate.mean,
        "risk_estimate_believable": estimate.believable if estimate.mean is not None else None,
        "label_coverage_log_e": coverage.log_e,
        "label_coverage_threshold": coverage.threshold,
        "label_coverage_alarm": coverage.alarm,
        "label_coverage_usual_ratio": coverage.usual,
    }
    yield from ((name, at, float(value)) for name, value in values.items() if value is not None)
    severities = {QUALITY: quality.severity, CALIBRATION: calibration.severity, COVERAGE: coverage.severity}
    yield from (("alarm_severity", (*at, name, severity), 1.0) for name, severity in severities.items())
    for name, outcome in (("halves", checks.self_test.halves), ("shift", checks.self_test.shift)):
        if outcome != "no_data":
            yield "monitor_self_test", (*at, name), float(outcome == "passed")


def _delays(name: str, spec: Spec, report: Report) -> Metric:
    family = HistogramMetricFamily(f"gaugeway_{name}", spec.help, labels=spec.labels)
    for *labels, book in report.own.books:
        family.add_metric(labels, _buckets(book), book.delay_s)
    return family


def _buckets(book: Book) -> list[tuple[str, float]]:
    bounds = [(str(DELAYS_S[i]), float(sum(book.delays[: i + 1]))) for i in _DELAY_BOUNDS]
    return [*bounds, ("+Inf", float(sum(book.delays)))]
