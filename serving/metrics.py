"""Every metric of the serving side: names, labels, buckets; counted in a memory-mapped page.

A worker adds to 64-bit floats in its page (a tenth of a microsecond); the sidecar sums the pages of its node when
Prometheus scrapes. A page outlives its process: the worker that follows goes on counting where it stopped.
"""

import json
import mmap
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.errors import GaugewayError

CONTENT_TYPE = CONTENT_TYPE_LATEST
UNKNOWN = "_unknown"  # the one label value of models that do not exist
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
START_SECONDS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 30.0, 60.0)


@dataclass(frozen=True)
class Spec:
    """One metric: what it is, what it says, its labels, and how pages of several workers add up."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "max"] = "sum"


_MV = ("model", "version")
NAMES: dict[str, Spec] = {
    "requests_total": Spec("counter", "Inference requests answered, by HTTP status.", (*_MV, "role", "code")),
    "request_duration_seconds": Spec("histogram", "From the request's last byte to its answer.", _MV, SECONDS),
    "queue_duration_seconds": Spec("histogram", "Wait of a batch's oldest request for a replica.", _MV, SECONDS),
    "inference_duration_seconds": Spec("histogram", "Run of a batch in the model.", _MV, SECONDS),
    "batch_rows": Spec("histogram", "Rows of a batch.", _MV, ROWS),
    "inflight_requests": Spec("gauge", "Requests being answered now.", ("model",)),
    "shed_total": Spec("counter", "Requests refused to protect the rest.", ("model", "reason", "priority")),
    "admission_limit_rows": Spec("gauge", "Rows that may be in flight, critical requests included.", _MV),
    "cache_lookups_total": Spec("counter", "Requests looked up in a version's cache: hit, miss.", (*_MV, "outcome")),
    "cache_bytes": Spec("gauge", "Bytes of answers kept to be given again.", _MV),
    "retries_total": Spec("counter", "Requests sent again because their replica died.", _MV),
    "cold_start_seconds": Spec("histogram", "Wait of a request for a replica to be made.", _MV, START_SECONDS),
    "records_total": Spec("counter", "Rows written for the monitors.", _MV),
    "labels_total": Spec("counter", "Labels received, by outcome.", ("model", "outcome")),
    "table_generation": Spec("gauge", "Generation of the routing table in use.", merge="max"),
    "route_weight": Spec("gauge", "Share of a model's traffic that goes to a version.", _MV, merge="max"),
}

CONTROL: dict[str, Spec] = {  # of the controller, which has a listener of its own
    "replicas": Spec("gauge", "Replicas of a version by state.", (*_MV, "state")),
    "replicas_wanted": Spec("gauge", "Replicas that a version should have at least; 0 where it may sleep.", _MV),
    "model_info": Spec("gauge", "1 for each version that is served.", (*_MV, "digest")),
    "nodes": Spec("gauge", "Ray nodes that run Gaugeway, by state.", ("state",)),
    "channel_refusals": Spec("gauge", "Connections to replicas that did not prove the secret, since start."),
    "controller_problem": Spec("gauge", "1 while the controller cannot bring about what is wanted, else 0."),
    "table_generation": NAMES["table_generation"],
    "route_weight": NAMES["route_weight"],
}

_MAGIC = b"GWPAGE01"
_INDEX, _VALUES, _SIZE = 16, 1 << 20, 1 << 22  # index from 16, values from 1 MiB, 4 MiB in all: 5,000 versions
_SLOTS = (_SIZE - _VALUES) // 8


class PageFull(GaugewayError):
    """More series than a page holds: a label is not from a closed set."""


class Page:
    """The counters of one process. Opens and continues an existing page; anything else at `path` is replaced."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_page(path):
            staged = path.with_suffix(".new")
            staged.write_bytes(_MAGIC.ljust(_SIZE, b"\0"))
            staged.rename(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._view = memoryview(self._map)
        self.values = self._view[_VALUES:].cast("d")
        self._count, self._end, self._free = _ends(self._map)
        self._slots = {key: slot for key, slot, width in _index(self._map) if _fits(key, width)}
        for key, slot in self._slots.items():
            if NAMES[json.loads(key)[0]].kind == "gauge":
                self.values[slot] = 0.0  # what a predecessor held open ended with it

    def counter(self, name: str, **labels: str) -> "Cell":
        return Cell(self.values, self._slot(name, labels))

    gauge = counter

    def histogram(self, name: str, **labels: str) -> "Histogram":
        buckets = NAMES[name].buckets
        return Histogram(self.values, self._slot(name, labels), buckets)

    def close(self) -> None:
        self.values.release()
        self._view.release()
        self._map.close()

    def _slot(self, name: str, labels: dict[str, str]) -> int:
        assert tuple(labels) == NAMES[name].labels, f"{name} has labels {NAMES[name].labels}, got {tuple(labels)}"
        key = json.dumps([name, *labels.values()])
        if key not in self._slots:
            self._slots[key] = self._add(key.encode(), _width(NAMES[name]))
        return self._slots[key]

    def _add(self, key: bytes, width: int) -> int:
        """An entry of the index is bytes of the key, slot, width (4 bytes each), key; visible by the count."""
        slot, end = self._free, self._end + 12 + len(key)
        if slot + width > _SLOTS or end > _VALUES:
            raise PageFull(f"no room for {key!r} among {self._count} series")
        entry = b"".join(n.to_bytes(4, "little") for n in (len(key), slot, width)) + key
        self._map[self._end : end] = entry
        self._count += 1
        self._map[8:16] = self._count.to_bytes(8, "little")
        self._end, self._free = end, slot + width
        return slot


class Cell:
    """One counter or gauge."""

    __slots__ = ("_slot", "_values")

    def __init__(self, values: "memoryview[float]", slot: int) -> None:
        self._values, self._slot = values, slot

    def add(self, amount: float = 1.0) -> None:
        self._values[self._slot] += amount

    def set(self, value: float) -> None:
        self._values[self._slot] = value


class Histogram:
    """Counts per bucket, above the last, and the sum."""

    __slots__ = ("_buckets", "_slot", "_sum", "_values")

    def __init__(self, values: "memoryview[float]", slot: int, buckets: tuple[float, ...]) -> None:
        self._values, self._slot, self._buckets = values, slot, buckets
        self._sum = slot + len(buckets) + 1

    def observe(self, value: float) -> None:
        self._values[self._slot + bisect_left(self._buckets, value)] += 1.0
        self._values[self._sum] += value


def collect(pages: Iterable[Path]) -> Iterator[Metric]:
    """The sum of all pages as Prometheus metric families, in the order of `NAMES`.

    What is no page of this format, or a series that this version does not have, is left out.
    """
    totals: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in NAMES}
    for path in pages:
        for key, values in _read(path):
            name, *labels = json.loads(key)
            if _fits(key, len(values)):
                _merge(totals[name], tuple(labels), values, NAMES[name].merge)
    for name, spec in NAMES.items():
        yield _family(name, spec, totals[name])


def _merge(into: dict[tuple[str, ...], list[float]], labels: tuple[str, ...], values: list[float], how: str) -> None:
    known = into.get(labels)
    if known is None:
        into[labels] = values
    elif how == "max":
        into[labels] = [max(a, b) for a, b in zip(known, values, strict=True)]
    else:
        into[labels] = [a + b for a, b in zip(known, values, strict=True)]


def _family(name: str, spec: Spec, series: dict[tuple[str, ...], list[float]]) -> Metric:
    full = f"gaugeway_{name}"
    if spec.kind == "histogram":
        return _histograms(full, spec, series)
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = kind(full, spec.help, labels=spec.labels)
    for labels, values in series.items():
        family.add_metric(labels, values[0])
    return family


def _histograms(full: str, spec: Spec, series: dict[tuple[str, ...], list[float]]) -> Metric:
    family = HistogramMetricFamily(full, spec.help, labels=spec.labels)
    bounds = [*map(str, spec.buckets), "+Inf"]
    for labels, values in series.items():
        counts, total = [], 0.0
        for count in values[:-1]:
            total += count
            counts.append(total)
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), values[-1])
    return family


def _read(path: Path) -> Iterator[tuple[str, list[float]]]:
    if not _is_page(path):
        return
    data = path.read_bytes()
    values = memoryview(data)[_VALUES:].cast("d")
    for key, slot, width in _index(data):
        yield key, list(values[slot : slot + width])


def _is_page(path: Path) -> bool:
    if not path.exists() or path.stat().st_size != _SIZE:
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _fits(key: str, width: int) -> bool:
    """Whether a series of a page, which may be older than this program, is one of `NAMES` with these buckets."""
    name, *labels = json.loads(key)
    spec = NAMES.get(name)
    return spec is not None and len(labels) == len(spec.labels) and width == _width(spec)


def _width(spec: Spec) -> int:
    """Values of a series: one, or those of a histogram's buckets, above the last, and the sum."""
    return len(spec.buckets) + 2 if spec.kind == "histogram" else 1


def _index(page: bytes | mmap.mmap) -> Iterator[tuple[str, int, int]]:
    at = _INDEX
    for _ in range(int.from_bytes(page[8:16], "little")):
        size, slot, width = (int.from_bytes(page[at + i : at + i + 4], "little") for i in (0, 4, 8))
        yield page[at + 12 : at + 12 + size].decode(), slot, width
        at += 12 + size


def _ends(page: mmap.mmap) -> tuple[int, int, int]:
    """How many series there are; where the next index entry and the next values go."""
    count, end, free = 0, _INDEX, 0
    for key, slot, width in _index(page):
        count, end, free = count + 1, end + 12 + len(key.encode()), slot + width
    return count, end, free


class Control:
    """A Prometheus collector over the controller's status; `status` is called at every scrape."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        found = self._status()
        series: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in CONTROL}
        series["table_generation"][()] = [float(found["generation"])]
        for state in ("ready", "silent"):
            series["nodes"][(state,)] = [float(sum(node["state"] == state for node in found["nodes"]))]
        series["channel_refusals"][()] = [float(sum(node["refusals"] for node in found["nodes"]))]
        series["controller_problem"][()] = [float(bool(found["problem"]))]
        for model, entry in found["models"].items():
            for version, one in entry["versions"].items():
                series["model_info"][model, version, one["digest"]] = [1.0]
                series["route_weight"][model, version] = [entry["weights"].get(version, 0.0)]
                series["replicas_wanted"][model, version] = [float(one["wanted_replicas"])]
                states = Counter(replica["state"] for replica in one["replicas"])
                for state in ("ready", "suspect", "draining", "unlinked"):
                    series["replicas"][model, version, state] = [float(states[state])]
        for name, spec in CONTROL.items():
            yield _family(name, spec, series[name])


def text(collector: Control) -> bytes:
    """What a scrape reads."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
