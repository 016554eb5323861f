from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from monitors.capture.figures import Figures, Written
from monitors.exporter import NAMES, STATES, Exporter, text
from monitors.report import Report
from monitors.station import Station
from serving import record
from serving.config import Monitors
from serving.manifest import Segment
from serving.metrics import NAMES as SERVING
from serving.ring import RingWriter
from tests.monitors.cluster import Judge, settle
from tests.monitors.traffic import START, Registry, manifest, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=6 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600,
    false_pages_per_90_days=18,
)  # fmt: skip
NOW = START + 10**8


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder: Path = tmp_path_factory.mktemp("exporter")
    divided = msgspec.structs.replace(manifest("1"), segments=(Segment("x0", edges=(0.0,)),))
    registry = Registry(divided, manifest("2"))
    station = Station(SETTINGS, "n", folder / "rings", None, registry.manifest, registry.read)
    ring = RingWriter(folder / "rings" / "worker-0.ring", 2**22)
    records, labels = stream(4000, spacing_s=120, shift=2.0)
    for found in records[:2000]:
        ring.append(record.encode(found), found.rows)
    station.poll(NOW)
    station.label(labels, NOW)
    for found in records[2000:]:
        ring.append(record.encode(found), found.rows)
    station.poll(NOW)
    report = settle(station, Judge(SETTINGS, registry), NOW)
    station.close()
    name = ("m", "1")
    return replace(report, capture=Figures({name: Written(7, 700)}, {name: 400}, {"lost": 2}, {"age": 1}, 0.5))


@pytest.fixture(scope="module")
def exported(report: Report) -> CollectorRegistry:
    exported = CollectorRegistry()
    exported.register(Exporter(lambda: report))
    return exported


def test_every_metric_that_is_declared_is_exported_with_its_labels(exported: CollectorRegistry) -> None:
    families = {family.name: family for family in exported.collect()}
    kinds_of_feature = {"correlation_seconds"}  # of a reference with times: not here
    for name, spec in NAMES.items():
        family = families[f"gaugeway_{name}".removesuffix("_total")]
        assert family.documentation.endswith(".")
        assert family.samples or name in kinds_of_feature, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels), name


def test_values_are_those_of_the_stream(exported: CollectorRegistry) -> None:
    version = {"model": "m", "version": "1"}
    get = exported.get_sample_value
    assert get("gaugeway_monitor_rows_total", version) == sum(1 + k % 3 for k in range(0, 4000, 2))
    assert get("gaugeway_drift_alarm", version | {"feature": "_all"}) == 1
    assert get("gaugeway_risk_alarm", version) == 1
    assert [s for s in STATES if get("gaugeway_monitor_state", version | {"state": s})] == ["alarm"]
    joined = get("gaugeway_labels_joined", version)
    assert joined == get("gaugeway_label_delay_seconds_count", version)
    assert get("gaugeway_label_delay_seconds_bucket", version | {"le": "4096.0"}) == 0
    assert get("gaugeway_label_delay_seconds_bucket", version | {"le": "16384.0"}) == joined
    assert get("gaugeway_monitor_last_verdict_timestamp_seconds", version) == NOW
    feature = version | {"feature": "x0"}
    assert get("gaugeway_quality_ratio", feature | {"check": "missing"}) == 0
    assert (get("gaugeway_quality_ratio", feature | {"check": "above"}) or 0.0) > 0
    assert get("gaugeway_quality_ratio", feature | {"check": "unseen"}) is None
    assert get("gaugeway_quality_alarm", version | {"feature": "_all", "check": "_all"}) == 1
    assert get("gaugeway_calibration_alarm", version) == 1
    assert get("gaugeway_risk_estimate_believable", version) == 0
    assert get("gaugeway_monitor_self_test", version | {"check": "halves"}) == 1
    assert get("gaugeway_monitor_self_test", version | {"check": "shift"}) == 1


def test_metrics_of_a_version_and_its_segments(exported: CollectorRegistry, report: Report) -> None:
    assert report.document is not None
    version, get = report.document.models["m"]["1"], exported.get_sample_value
    labels = {"model": "m", "version": "1", "metric": "brier"}
    brier = version.metrics["brier"]
    assert brier.value == pytest.approx(version.risk.mean, abs=1e-9) and brier.n == version.labels.joined
    for name, value in (("", brier.value), ("_lower", brier.lower), ("_upper", brier.upper), ("_rows", brier.n)):
        assert get(f"gaugeway_model_metric{name}", labels | {"segment": "_all"}) == value
    parts = [get("gaugeway_model_metric_rows", labels | {"segment": f"x0={x}"}) for x in ("(-inf, 0)", "[0, inf)")]
    assert sum(part or 0 for part in parts) == brier.n and all(parts)
    disparity = version.fairness["x0"]["selection_rate"]
    feature = {"model": "m", "version": "1", "feature": "x0", "rate": "selection_rate"}
    assert disparity.largest == "[0, inf)" and disparity.difference is not None
    assert get("gaugeway_fairness_difference", feature) == disparity.difference.value > 0.2
    assert get("gaugeway_fairness_difference_lower", feature) == disparity.difference.lower > 0


def test_what_the_reference_is_worth(report: Report) -> None:
    verdicts = report.verdicts["m", "1"]
    law = msgspec.structs.replace(verdicts.laws["x0"], design_effect=2.5, correlation_s=7200.0)
    known = report.verdicts | {("m", "1"): msgspec.structs.replace(verdicts, laws=verdicts.laws | {"x0": law})}
    exported = CollectorRegistry()
    exported.register(Exporter(lambda: replace(report, verdicts=known)))
    feature = {"model": "m", "version": "1", "feature": "x0"}
    assert exported.get_sample_value("gaugeway_effective_rows", feature) == law.rows / 2.5
    assert exported.get_sample_value("gaugeway_correlation_seconds", feature) == 7200
    assert exported.get_sample_value("gaugeway_correlation_seconds", feature | {"feature": "x1"}) is None


def test_names_do_not_collide_with_those_of_the_serving_side() -> None:
    assert not NAMES.keys() & SERVING.keys()


def test_before_the_first_report_only_the_workers_are_exported() -> None:
    family = GaugeMetricFamily("gaugeway_batch", "Help.", value=3)
    only = b"# HELP gaugeway_batch Help.\n# TYPE gaugeway_batch gauge\ngaugeway_batch 3.0\n"
    assert text(None, lambda: [family]) == only
