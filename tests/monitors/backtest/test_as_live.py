"""A backtest of a file says what the live monitor says of the same rows, labels and times, to the bit.

The live side is all of it but the network: records in a ring, a station that counts and seals slots and joins labels
as they come, a judge. Its clock is the one that the test gives it.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from monitors.aggregator import Verdicts
from monitors.backtest.document import Block, Document, Evidence, Mark
from monitors.backtest.log import Verdict
from monitors.backtest.past import Past, Ruler
from monitors.backtest.replay import Replay
from monitors.budget import COVERAGE, QUALITY, RISK
from monitors.checkup import CALIBRATION
from monitors.clusters import keys, one_a_cluster
from monitors.labels import Label
from monitors.parcel import Receipt
from monitors.reference import PREDICTION, Chosen, Kind, Part, Profile, decode, of_parts
from monitors.scorecard import scorecard
from monitors.station import Station
from serving.backtesting import Columns, backtest
from serving.config import Monitors
from serving.manifest import Feature, Manifest, Prediction, Segment, Task
from serving.protocol import Signature, TensorSpec
from serving.record import Column, Record, encode
from serving.ring import RingWriter
from tests.monitors.cluster import Judge
from tests.monitors.traffic import START, Registry

SLOT_S, HOUR_S, HORIZON_S = 1800.0, 3600.0, 4 * 3600.0
DENSE = [180] * 40
SPARSE = [180, 180, 30, 0, 180, 180, 20, 20, 0, 0, 150, 99] * 4  # blocks are joined for want of rows
KINDS: dict[str, Kind] = {"a": "numeric", "b": "numeric", "carrier": "categorical", "user": "categorical"}
LABELS = (RISK, COVERAGE, CALIBRATION)  # are judged when a block's labels are sealed
NAME = ("m", "1")


class Rows(NamedTuple):
    part: Part
    landed: NDArray[np.float64]  # when the label came

    @property
    def table(self) -> pa.Table:
        texts = {name: pa.array([text.decode() for text in self.part.values[name]]) for name in ("carrier", "user")}
        numbers = {"a": self.part.values["a"], "b": self.part.values["b"], "p": self.part.prediction,
                   "late": self.part.labels, "at": self.part.time, "landed": self.landed}  # fmt: skip
        return pa.table({**numbers, **texts})


def rows(hours: list[int], seed: int, task: Task, *, broken: bool, season: float = 0.0) -> Rows:
    """In no order. Users differ, and hours of the day by `season`. Where it is `broken`, from half-way on all that can
    break does."""
    rng, hour = np.random.default_rng(seed), np.repeat(np.arange(len(hours)), hours)
    n, worse = len(hour), broken & (hour >= len(hours) // 2)
    at = START + (hour + rng.random(n)) * HOUR_S
    user = rng.integers(0, 60, n)
    a = np.linspace(-1, 1, 60)[user] + rng.normal(0.6 * worse + season * np.sin(hour * np.pi / 12), 1.0)
    b = np.where(worse, -0.9, 0.9) * a + rng.normal(0, 0.3, n)
    a[rng.random(n) < 0.02 + 0.1 * worse] = np.nan
    carrier = np.where(worse & (rng.random(n) < 0.2), b"new", rng.choice([b"AA", b"UA", b"B6", b""], n)).astype(object)
    users = np.array([f"u{number}".encode() for number in user], object)
    again = np.flatnonzero(worse & (rng.random(n) < 0.3))  # the row before, once more
    for column in (a, b, carrier, users):
        column[again] = column[again - 1]
    p = b.copy() if task == "regression" else np.asarray(1 / (1 + np.exp(-b)), np.float64)
    label = np.asarray(worse + b + rng.normal(0, 0.5, n), np.float64)
    if task == "classification":
        label = (rng.random(n) < np.where(worse, 1 - p, p)).astype(np.float64)
    p[::97], p[50::301] = np.nan, np.inf
    landed = np.asarray(at + rng.exponential(0.4 * HORIZON_S, n).clip(0.0, 1.9 * HORIZON_S), np.float64)
    never = rng.random(n) < np.where(broken & (hour >= 0.8 * len(hours)), 0.9, 0.05)
    label[never] = landed[never] = np.nan
    columns = {"a": a.astype(np.float32), "b": b.astype(np.float32), "carrier": carrier, "user": users}
    order = rng.permutation(n)
    return Rows(Part(columns, p, label, at).of(order), landed[order])


def profiled(reference: Part, unit: str, task: Task) -> Profile:
    """As publishing it would, with one row of each cluster and block where these are the unit."""
    chosen = None
    if unit.startswith("cluster:"):
        one = one_a_cluster([(keys(reference.values["user"]), reference.clock, reference.blocks(HOUR_S))])
        chosen = Chosen("user", one, reference.of(one), one)
    numbers = np.arange(reference.rows)
    profile = of_parts(reference, numbers, [reference], KINDS, task=task, block_s=HOUR_S, chosen=chosen)
    return decode(profile.encode())


class Live:
    """One node and its judge, with our clock."""

    def __init__(self, folder: Path, profile: Profile, settings: Monitors, task: Task) -> None:
        tensors = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("text", "BYTES", (-1, 2)))
        features = tuple(Feature(name, "x" if KINDS[name] == "numeric" else "text", k % 2, KINDS[name])
                         for k, name in enumerate(KINDS))  # fmt: skip
        self._manifest = Manifest(
            model="m", version="1", files={"model.onnx": "0" * 64, "reference.json": profile.digest},
            signature=Signature(tensors, (TensorSpec("p", "FP64", (-1, 1)),)), rows_independent=True, task=task,
            prediction=Prediction("p", 0), features=features,
            segments=(Segment("carrier", profile.features["carrier"].categories),),
        )  # fmt: skip
        registry = Registry(self._manifest, profiles=[profile])
        self._ring = RingWriter(folder / "rings" / "worker-0.ring", 2**22)
        self.station = Station(settings, "n", folder / "rings", None, registry.manifest, registry.read)
        self._judge = Judge(settings, registry)

    def told(self, found: Rows) -> Iterator[tuple[float, Verdicts]]:
        """Clock and verdicts, slot by slot, until the last label came."""
        time = found.part.clock
        known, end = np.isfinite(found.landed), START + np.ceil((time.max() - START) / HOUR_S) * HOUR_S
        for now in np.arange(START + SLOT_S, end + 2 * HORIZON_S + SLOT_S, SLOT_S).tolist():
            came = np.flatnonzero((time >= now - SLOT_S) & (time < now))
            if len(came):
                self._ring.append(encode(self._record(found.part, came)), len(came))
            labelled = np.flatnonzero(known & (found.landed >= now - SLOT_S) & (found.landed < now))
            yield now, self._step(found, labelled, now)

    def _step(self, found: Rows, labelled: NDArray[np.intp], now: float) -> Verdicts:
        assert found.part.labels is not None
        labels = [
            Label("m", f"r{i}", i, float(found.part.labels[i]), float(found.landed[i])) for i in labelled.tolist()
        ]
        self.station.label(labels, now)
        while self.station.poll(now):
            pass
        self.station.commit(at_once=True)
        (receipt,) = self._judge.step([self.station.delivery], [self.station.node], now)
        assert isinstance(receipt, Receipt)
        self.station.receive(receipt)
        return self._judge.judged.verdicts[NAME]

    def _record(self, part: Part, which: NDArray[np.intp]) -> Record:
        """One row a request; the number of its row in the file is that of its row in the request."""
        n, time = len(which), part.clock[which].tolist()
        x, text = (np.stack([part.values[name][which] for name in names], 1) for names in ("ab", ("carrier", "user")))
        assert part.prediction is not None
        return Record(
            model="m", version="1", digest=self._manifest.digest, role="primary", ids=[f"r{i}" for i in which],
            first_rows=which.tolist(), counts=[1] * n, reasons=["weights"] * n, propensities=[1.0] * n, keys=[0] * n,
            event_times=time, arrival_times=time, statuses=[200] * n, queue_s=[0.0] * n, infer_s=0.001,
            inputs={"x": Column.of("FP32", x), "text": Column.of("BYTES", text)},
            outputs={"p": Column.of("FP64", part.prediction[which, None])},
        )  # fmt: skip


def seconds(mark: Mark) -> float:
    return datetime.fromisoformat(str(mark)).timestamp()


def by_subject(drift: Verdicts, labels: Verdicts) -> dict[str, Verdict]:
    checks = labels.checks
    return {**drift.drift, QUALITY: drift.checks.quality, RISK: labels.risk, COVERAGE: checks.coverage,
            CALIBRATION: checks.calibration}  # fmt: skip


def said_of(block: Block) -> dict[str, tuple[float, float, bool]]:
    found: dict[str, Evidence | None] = {**block.features, **block.others, PREDICTION: block.prediction,
                                         RISK: block.risk}  # fmt: skip
    return {name: (one.log_e, one.threshold, one.alarm) for name, one in found.items() if one is not None}


def alarms(live: Mapping[float, Verdicts]) -> list[tuple[str, float, float | None]]:
    """Subject, end of the block that raised it, and of the one that cleared it."""
    found, on = [], dict[str, float]()
    for now, verdicts in live.items():
        for subject, verdict in by_subject(verdicts, verdicts).items():
            if verdict.alarm and verdict.since is not None:
                on.setdefault(subject, verdict.since)
            elif subject in on:
                found.append((subject, on.pop(subject), now - HORIZON_S * (subject in LABELS)))
    return sorted([*found, *((subject, since, None) for subject, since in on.items())], key=lambda alarm: alarm[:2])


def judged(document: Document) -> list[Block]:
    return [block for block in document.blocks if block.judged]


@pytest.mark.parametrize(
    ("hours", "unit", "task", "season", "raised"),
    [
        (DENSE, "row", "classification", 0.0,
         {"a", "carrier", "_all", "_joint", "_prediction", "_quality", "_risk", "_coverage", "_calibration"}),
        (SPARSE, "cluster:user", "classification", 0.0, {"a", "_all", "_quality"}),
        (SPARSE, "block", "regression", 2.0, {"_quality"}),
    ],
    ids=["row", "cluster", "block and season"],
)  # fmt: skip
def test_the_same_bits_as_live(
    tmp_path: Path, hours: list[int], unit: str, task: Task, season: float, raised: set[str]
) -> None:
    """Late labels, labels that never come, predictions that are no numbers, joined blocks, segments, unsorted rows."""
    settings = Monitors(
        slot_s=SLOT_S, block_s=HOUR_S, block_rows=100, lateness_s=0.0, label_horizon_s=HORIZON_S, unit=unit,
        false_pages_per_90_days=500.0, quiet_blocks=3, min_group_rows=20, allow_correlated_blocks=True,
    )  # fmt: skip
    reference = rows([320] * 144 if season else [150] * 60, 1, task, broken=False, season=season)
    found, profile = rows(hours, 2, task, broken=True, season=season), profiled(reference.part, unit, task)
    assert ("a" in profile.seasonal) == bool(season)
    for name, table in (("reference", reference.table), ("data", found.table)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    columns = Columns(
        timestamp="at", prediction="p", label="late", label_time="landed", features=dict(KINDS), segments=("carrier",),
        cluster=unit.partition(":")[2] or None,
    )  # fmt: skip
    document = backtest(tmp_path / "reference.parquet", tmp_path / "data.parquet", columns, settings, task=task)
    subject = Live(tmp_path, profile, settings, task)
    live = dict(subject.told(found))

    for block in judged(document):
        end = seconds(block.end)
        expected = by_subject(live[end], live[end + HORIZON_S])
        assert said_of(block) == {
            name: (verdict.log_e, verdict.threshold, verdict.alarm)
            for name, verdict in expected.items()
            if verdict.blocks
        }
    told = [(alarm.subject, seconds(alarm.time), alarm.until and seconds(alarm.until)) for alarm in document.alarms]
    assert sorted(told, key=lambda alarm: alarm[:2]) == alarms(live)
    assert {alarm.subject for alarm in document.alarms} >= raised
    assert document.selftest == list(live.values())[-1].checks.self_test
    assert document.metrics == scorecard(subject.station.ledger.books[NAME].tables, settings.min_group_rows)
    assert document.metrics.segments["carrier"].keys() >= {"AA", "UA", "B6"}
    assert whole(profile, found, settings) == whole_of(list(live.values())[-1])


def whole(profile: Profile, found: Rows, settings: Monitors) -> tuple[object, ...]:
    """The newest verdicts with all that they hold."""
    ruler = Ruler(HOUR_S, SLOT_S)
    past, replay = Past(profile, ruler, settings), Replay(profile, ruler, settings, labels=True)
    past.add(found.part, found.landed, found.part.values["user"] if settings.unit == "cluster:user" else None)
    assert sum(folded.sums.counts.rows for folded in replay.blocks(past.blocks)) == found.part.rows
    monitor = replay.monitor
    said = monitor.drift(), monitor.risk(), monitor.checks(), monitor.which(), monitor.past(), monitor.harm()
    return *said, monitor.promise()


def whole_of(live: Verdicts) -> tuple[object, ...]:
    return live.drift, live.risk, live.checks, live.which, live.past, live.harm, live.promise
