"""Pages add up, outlive their process, and come out as Prometheus reads them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving import metrics
from serving.metrics import NAMES, Page, PageFull, collect

ORDER = ("model", "version", "role", "code", "reason", "le")
MV = {"model": "m", "version": "1"}
OK = {**MV, "role": "primary", "code": "200"}


def _samples(*pages: Path) -> dict[tuple[str, ...], float]:
    """Of the text that a scrape reads: (name, label values…) -> value."""

    class Pages(Collector):
        def collect(self) -> Iterable[Metric]:
            return collect(pages)

    registry = CollectorRegistry()
    registry.register(Pages())
    text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    return {
        (s.name, *(s.labels[label] for label in ORDER if label in s.labels)): s.value
        for family in families
        for s in family.samples
    }


def test_two_pages_add_up(tmp_path: Path) -> None:
    paths = [tmp_path / "a.page", tmp_path / "b.page"]
    for path, amount in zip(paths, (2.0, 5.0), strict=True):
        page = Page(path)
        page.counter("requests_total", **OK).add(amount)
        page.gauge("inflight_requests", model="m").set(amount)
        page.gauge("table_generation").set(amount)
        page.histogram("batch_rows", **MV).observe(amount)
        page.close()
    found = _samples(*paths)
    assert found["gaugeway_requests_total", "m", "1", "primary", "200"] == 7
    assert found["gaugeway_inflight_requests", "m"] == 7
    assert found["gaugeway_table_generation",] == 5  # the newest
    assert found["gaugeway_batch_rows_sum", "m", "1"] == 7 and found["gaugeway_batch_rows_count", "m", "1"] == 2


def test_buckets_are_cumulative_and_their_bounds_belong_to_them(tmp_path: Path) -> None:
    page = Page(tmp_path / "a.page")
    rows = page.histogram("batch_rows", **MV)
    for value in (1, 1, 2, 3, 4, 5000):
        rows.observe(value)
    found = _samples(tmp_path / "a.page")
    counts = [found["gaugeway_batch_rows_bucket", "m", "1", bound] for bound in ("1.0", "2.0", "4.0", "1024.0", "+Inf")]
    assert counts == [2, 3, 5, 5, 6] and found["gaugeway_batch_rows_sum", "m", "1"] == 5011
    page.close()


def test_a_page_is_continued_but_what_was_open_is_not(tmp_path: Path) -> None:
    for _ in range(3):
        page = Page(tmp_path / "a.page")
        page.counter("requests_total", **OK).add()
        page.gauge("inflight_requests", model="m").add()
        page.counter("shed_total", model="m", reason=f"r{os.urandom(4).hex()}", priority="default").add()
        page.close()
    found = _samples(tmp_path / "a.page")
    assert found["gaugeway_requests_total", "m", "1", "primary", "200"] == 3
    assert found["gaugeway_inflight_requests", "m"] == 1
    assert sum(value for key, value in found.items() if key[0] == "gaugeway_shed_total") == 3


def test_what_was_counted_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from serving.metrics import Page\n"
        f"Page(Path({str(tmp_path / 'a.page')!r})).counter('records_total', model='m', version='1').add(41)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    Page(tmp_path / "a.page").counter("records_total", **MV).add()
    assert _samples(tmp_path / "a.page")["gaugeway_records_total", "m", "1"] == 42


def test_a_full_page_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    page = Page(tmp_path / "a.page")
    with pytest.raises(PageFull, match="no room"):
        for k in range(100_000):
            page.counter("requests_total", **{**MV, "version": str(k), "role": "primary", "code": "200"}).add()
    page.counter("requests_total", **{**MV, "version": "0", "role": "primary", "code": "200"}).add()
    assert _samples(tmp_path / "a.page")["gaugeway_requests_total", "m", "0", "primary", "200"] == 2
    page.close()


def test_labels_must_be_those_of_the_metric(tmp_path: Path) -> None:
    page = Page(tmp_path / "a.page")
    with pytest.raises(AssertionError):
        page.counter("records_total", model="m")
    page.close()


@pytest.mark.parametrize("content", [b"", b"garbage", b"x" * 2**19, b"GWPAGE01" + b"\xff" * 100])
def test_what_is_no_page_is_left_out_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.page"
    path.write_bytes(content)
    assert not any(_samples(path).values()) and not any(_samples(tmp_path / "missing.page").values())
    page = Page(path)
    page.counter("records_total", **MV).add()
    assert _samples(path)["gaugeway_records_total", "m", "1"] == 1
    page.close()


def test_series_of_another_version_of_the_program_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.page"
    with monkeypatch.context() as older:
        older.setitem(NAMES, "gone_total", metrics.Spec("counter", "It was there once.", ("model",)))
        older.setitem(NAMES, "batch_rows", metrics.Spec("histogram", "Rows.", ("model", "version"), (1.0, 2.0)))
        page = Page(path)
        page.counter("gone_total", model="m").add()
        page.histogram("batch_rows", **MV).observe(1)
        page.counter("records_total", **MV).add()
        page.close()
    page = Page(path)
    page.histogram("batch_rows", **MV).observe(700)
    page.counter("records_total", **MV).add()
    found = _samples(path)
    assert found["gaugeway_records_total", "m", "1"] == 2
    assert found["gaugeway_batch_rows_sum", "m", "1"] == 700 and found["gaugeway_batch_rows_count", "m", "1"] == 1
    page.close()


def test_every_metric_has_a_sentence_and_a_name_that_says_its_unit() -> None:
    for name, spec in {**NAMES, **metrics.CONTROL}.items():
        assert spec.help.endswith("."), name
        assert name.endswith("_total") == (spec.kind == "counter"), name
