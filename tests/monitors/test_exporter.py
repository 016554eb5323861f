from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from monitors.exporter import NAMES, STATES, Exporter, text
from monitors.station import Station
from serving import record
from serving.config import Monitors
from serving.metrics import NAMES as SERVING
from serving.ring import RingWriter
from tests.monitors.cluster import Judge, settle
from tests.monitors.traffic import START, Registry, manifest, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=6 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600,
    false_alarms_days=5,
)  # fmt: skip
NOW = START + 10**8


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> CollectorRegistry:
    folder: Path = tmp_path_factory.mktemp("exporter")
    registry = Registry(manifest("1"), manifest("2"))
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
    exported = CollectorRegistry()
    exported.register(Exporter(lambda: report))
    return exported


def test_every_metric_that_is_declared_is_exported_with_its_labels(exported: CollectorRegistry) -> None:
    families = {family.name: family for family in exported.collect()}
    kinds_of_feature = {"unseen_ratio"}  # of categories, which this model has none of
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
    assert get("gaugeway_missing_ratio", version | {"feature": "x0"}) == 0
    out = get("gaugeway_out_of_range_ratio", version | {"feature": "x0"})
    assert out is not None
    assert 0 < out < 0.3
    assert get("gaugeway_unseen_ratio", version | {"feature": "x0"}) is None


def test_names_do_not_collide_with_those_of_the_serving_side() -> None:
    assert not NAMES.keys() & SERVING.keys()


def test_before_the_first_report_only_the_workers_are_exported() -> None:
    family = GaugeMetricFamily("gaugeway_batch", "Help.", value=3)
    only = b"# HELP gaugeway_batch Help.\n# TYPE gaugeway_batch gauge\ngaugeway_batch 3.0\n"
    assert text(None, lambda: [family]) == only
