"""What the ring holds of a batch is what was computed, and the counters say what the ring holds."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from serving.admission import Admission, Places
from serving.batching import ABANDONED, Batcher, Item
from serving.engine import Engine
from serving.errors import DeadlineExceeded, ModelFailure
from serving.manifest import Feature, Manifest, Prediction
from serving.metrics import Page, collect
from serving.protocol import Array, TensorSpec
from serving.record import Record, decode
from serving.recorder import ENOUGH_ROWS, Recorder
from serving.ring import RingReader, RingWriter
from tests.replicas import future, linked, listening, manifest, until

X, TEXT, OTHER = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("z", "INT64", (-1,))
ECHO, SCORE = TensorSpec("echo", "BYTES", (-1, 1)), TensorSpec("score", "FP64", (-1,))
SIGNATURE = manifest(inputs=[X, OTHER, TEXT], outputs=[ECHO, SCORE])
FEATURES = (Feature("a", "x", 0), Feature("b", "x", 1), Feature("word", "text", 0, "categorical"))
POISON = -1


class Model:
    """`echo` is `text`, `score` the sum of a row of `x`; it fails where `z` is POISON."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        if (inputs["z"] == POISON).any():
            raise ModelFailure("poison")
        return [inputs["text"], inputs["x"].sum(axis=1, dtype=np.float64)]

    def interrupt(self) -> None: ...


class Desk:
    """A batcher whose batches are recorded, and all that was asked of it."""

    def __init__(self, folder: Path, of: Manifest, ring: RingWriter | None, max_batch_rows: int) -> None:
        self.path = folder / "worker.page"
        self.page = Page(self.path)
        self.recorder = Recorder(of, self.page, ring)
        admission = Admission("m", Places(4096), max_queue_rows=4096, queue_target_s=0.5, rng=random.Random(1))
        self.batcher = Batcher(of, admission, max_batch_rows=max_batch_rows, retries=0, finished=self.recorder,
                               answering=self.recorder.expect)  # fmt: skip
        self.items: list[Item] = []

    def ask(self, x: Sequence[Sequence[float]], texts: Sequence[bytes], z: int = 0, deadline_s: float = 10.0) -> Item:
        k, loop = len(self.items), asyncio.get_running_loop()
        words = np.array(texts, object).reshape(-1, 1)
        item = Item(
            [np.array(x, np.float32), np.full(len(x), z, np.int64), words], len(x), loop.time() + deadline_s,
            loop.create_future(), f"id-{k}", first_row=10 * k, reason="sticky", propensity=0.5 + k / 100,
            key_hash=2**64 - 1 - k, arrival_time=1e9 + k, event_time=2e9 + k, key="k",
        )  # fmt: skip
        self.items.append(item)
        self.batcher.submit(item)
        return item

    def recorded(self) -> float:
        """Rows that are on record, without a flush."""
        return sum(s.value for f in collect([self.path]) for s in f.samples if s.name == "gaugeway_records_total")

    async def answered(self) -> None:
        await asyncio.gather(*(future(item) for item in self.items), return_exceptions=True)
        await until(lambda: self.batcher.idle)


def recorded(
    folder: Path,
    test: Callable[[Desk], Awaitable[None]],
    of: Manifest,
    *,
    capacity_bytes: int | None = 2**20,
    max_batch_rows: int = 256,
) -> tuple[list[Record], dict[str, float], int]:
    """Records of what a test asks for, the version's samples by name, and the rows that the ring refused."""
    ring = RingWriter(folder / "w.ring", capacity_bytes) if capacity_bytes else None

    async def main() -> None:
        async with listening(Engine(of, Model(), max_batch_rows=max_batch_rows), folder / "s"):
            desk = Desk(folder, of, ring, max_batch_rows)
            link = await linked(folder / "s")
            desk.batcher.attach(link)
            await test(desk)
            await desk.answered()
            desk.recorder.flush()
            link.close()
            await until(lambda: link.state == "lost")
            desk.page.close()

    asyncio.run(main())
    samples = {s.name: s.value for family in collect([folder / "worker.page"]) for s in family.samples}
    if ring is None:
        return [], samples, 0
    ring.close()
    frames = RingReader(folder / "w.ring").read()
    records = [decode(frame.payload) for frame in frames]
    assert [frame.rows for frame in frames] == [record.rows for record in records]
    return records, samples, ring.rows - sum(frame.rows for frame in frames)


def declared(*features: Feature, prediction: Prediction | None = None) -> Manifest:
    return msgspec.structs.replace(SIGNATURE, features=features, prediction=prediction)


def test_the_columns_of_a_batch_are_its_requests_joined(tmp_path: Path) -> None:
    asked: list[Item] = []

    async def test(desk: Desk) -> None:
        desk.ask([[1, 2]], [b"one"])
        desk.ask([[3, 4], [5, np.nan], [7, 8]], [b"", b"\x00\xff", "Größe".encode()])
        desk.ask([[9, 10], [11, 12]], [b"long " * 99, b"z"])
        asked.extend(desk.items)

    of = declared(*FEATURES, prediction=Prediction("score"))
    (record,), samples, refused = recorded(tmp_path, test, of)
    assert (record.v, record.model, record.version, record.digest, record.role) == (2, "m", "1", of.digest, "primary")
    assert record.ids == ["id-0", "id-1", "id-2"] and record.statuses == [200] * 3
    assert (record.counts, record.first_rows) == ([1, 3, 2], [0, 10, 20])
    assert (record.reasons, record.propensities) == (["sticky"] * 3, [0.5, 0.51, 0.52])
    assert record.keys == [2**64 - 1, 2**64 - 2, 2**64 - 3]
    assert record.arrival_times == [1e9, 1e9 + 1, 1e9 + 2] and record.event_times == [2e9, 2e9 + 1, 2e9 + 2]
    assert record.infer_s >= 0 and len(record.queue_s) == 3 and min(record.queue_s) >= 0
    answers = [future(item).result().outputs for item in asked]
    for name, i in (("x", 0), ("text", 2)):
        _same(record.inputs[name].array(), np.concatenate([item.inputs[i] for item in asked]))
    _same(record.outputs["score"].array(), np.concatenate([score for _, score in answers]))
    assert record.outputs["score"].array()[[0, 1, 3]].tolist() == [3, 7, 15]
    assert samples["gaugeway_records_total"] == 6 and refused == 0
    assert samples["gaugeway_queue_duration_seconds_sum"] == max(record.queue_s)
    assert samples["gaugeway_inference_duration_seconds_sum"] == record.infer_s


def test_batches_that_end_within_milliseconds_are_one_record_and_others_are_not(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for k in range(4):
            await future(desk.ask([[k, k]], [b"a"]))
        await until(lambda: desk.recorded() == 4)
        for _ in range(ENOUGH_ROWS + 1):
            await future(desk.ask([[5, 5]], [b"b"]))

    of = declared(FEATURES[0], prediction=Prediction("score"))
    records, samples, _ = recorded(tmp_path, test, of)
    assert sum(record.rows for record in records) == samples["gaugeway_records_total"] == ENOUGH_ROWS + 5
    assert samples["gaugeway_batch_rows_count"] == ENOUGH_ROWS + 5 and max(r.rows for r in records) <= ENOUGH_ROWS
    assert len(records) < ENOUGH_ROWS / 2
    assert [id for record in records for id in record.ids] == [f"id-{k}" for k in range(ENOUGH_ROWS + 5)]
    values = np.concatenate([record.inputs["x"].array()[:, 0] for record in records])
    assert values.tolist() == [0, 1, 2, 3] + [5] * (ENOUGH_ROWS + 1)


def test_only_declared_inputs_and_the_prediction_are_recorded(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.ask([[1, 2]], [b"secret"])
        desk.ask([[3, 4]], [b"secret"])

    one = declared(Feature("a", "x", 0), prediction=Prediction("score"))
    for of, inputs, outputs in ((one, {"x"}, {"score"}), (declared(), set(), set()),
                                (declared(prediction=Prediction("echo")), set(), {"echo"})):  # fmt: skip
        folder = tmp_path / f"{len(inputs)}{len(outputs)}"
        folder.mkdir()
        (record,), _, _ = recorded(folder, test, of)
        assert (set(record.inputs), set(record.outputs)) == (inputs, outputs)
        assert (b"secret" in (folder / "w.ring").read_bytes()) == ("echo" in outputs)
        assert record.ids == ["id-0", "id-1"] and record.rows == 2


def test_a_failed_batch_has_no_columns_and_no_duration(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.ask([[1, 2]], [b"a"])
        desk.ask([[3, 4], [5, 6]], [b"b", b"c"], z=POISON)
        desk.ask([[7, 8]], [b"d"])
        await desk.answered()
        assert [type(future(item).exception()) for item in desk.items] == [type(None), ModelFailure, type(None)]

    records, samples, _ = recorded(tmp_path, test, declared(*FEATURES, prediction=Prediction("score")))
    by_id = {record.ids[0]: record for record in records}
    failed = by_id["id-1"]
    assert len(records) == 3 and (failed.statuses, failed.counts) == ([500], [2])
    assert failed.inputs == {} and failed.outputs == {} and failed.infer_s == 0.0
    assert by_id["id-0"].outputs["score"].array().tolist() == [3]
    assert by_id["id-2"].outputs["score"].array().tolist() == [15]
    assert samples["gaugeway_records_total"] == 4
    assert samples["gaugeway_batch_rows_count"] == samples["gaugeway_inference_duration_seconds_count"] == 2


def test_each_request_of_a_batch_has_its_own_status(tmp_path: Path) -> None:
    """What the model computed for one that left is recorded with the rest: its rows stay its own."""

    async def test(desk: Desk) -> None:
        for k in range(3):
            desk.ask([[k, k]], [b"%d" % k])
        await asyncio.sleep(0)  # they leave together
        await until(lambda: any(link.inflight for link in desk.batcher.links))
        future(desk.items[0]).cancel()
        future(desk.items[1]).set_exception(DeadlineExceeded("as its timer does"))

    (record,), samples, _ = recorded(tmp_path, test, declared(*FEATURES, prediction=Prediction("score")))
    assert record.statuses == [ABANDONED, 504, 200]
    assert record.outputs["score"].array().tolist() == [0, 2, 4]
    assert record.inputs["text"].array().ravel().tolist() == [b"0", b"1", b"2"]
    assert samples["gaugeway_records_total"] == samples["gaugeway_batch_rows_sum"] == 3


def test_what_never_ran_is_recorded_with_its_status(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        future(desk.ask([[1, 2]], [b"a"])).cancel()
        desk.ask([[3, 4]], [b"b"])

    left, right = recorded(tmp_path, test, declared(*FEATURES))[0]
    assert (left.ids, left.statuses, left.inputs) == (["id-0"], [ABANDONED], {})
    assert (right.ids, right.statuses) == (["id-1"], [200])
    assert right.inputs["x"].array().tolist() == [[3, 4]]


def test_rows_that_the_ring_refuses_are_answered_and_not_counted_as_recorded(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for size in (1, 60_000, 2):
            desk.ask([[size, 0], [size, 0]], [b"x" * size, b"y"])
            await desk.answered()

    records, samples, refused = recorded(tmp_path, test, declared(*FEATURES), capacity_bytes=2**16)
    assert [record.ids for record in records] == [["id-0"], ["id-2"]]
    assert samples["gaugeway_records_total"] == 4 and refused == 2
    assert samples["gaugeway_batch_rows_sum"] == 6 and samples["gaugeway_batch_rows_count"] == 3


def test_without_a_ring_batches_are_measured_and_nothing_is_recorded(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for k in range(5):
            desk.ask([[k, 0], [k, 0]], [b"a", b"b"])

    _, samples, _ = recorded(tmp_path, test, declared(*FEATURES), capacity_bytes=None, max_batch_rows=4)
    assert samples["gaugeway_records_total"] == 0
    assert samples["gaugeway_batch_rows_sum"] == 10 and samples["gaugeway_batch_rows_count"] == 3
    assert samples["gaugeway_queue_duration_seconds_count"] == 3


def _same(got: Array, expected: Array) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.tolist() == expected.tolist() if got.dtype == object else got.tobytes() == expected.tobytes()
