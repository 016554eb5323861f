"""What is captured is what is listed, as the rules leave it; and the ring has nothing else."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.batching import Finished, Item
from serving.channel import Result
from serving.config import Capture
from serving.excerpt import Captured, captured, hashing_key
from serving.manifest import Feature, Manifest, Prediction
from serving.metrics import Page
from serving.packed import Cut
from serving.protocol import Array, TensorSpec
from serving.record import Record, decode
from serving.recorder import Recorder
from serving.ring import RingReader, RingWriter
from tests.monitors.capture.test_columns import batch
from tests.replicas import manifest

KEY = hashing_key("what all nodes of a cluster know")
SPECS = [
    TensorSpec("x", "FP32", (-1, 2)), TensorSpec("user", "BYTES", (-1, 1)), TensorSpec("age", "INT64", (-1,)),
    TensorSpec("image", "UINT8", (-1, 2, 2)),
]  # fmt: skip
BARE = manifest(inputs=SPECS, outputs=[TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "FP32", (-1,))])
FEATURES = (
    Feature("a", "x", 0),
    Feature("b", "x", 1),
    Feature("user", "user", 0, "categorical"),
    Feature("age", "age"),
)
DECLARED = msgspec.structs.replace(BARE, features=FEATURES[:2], prediction=Prediction("p", 1))
ALL = msgspec.structs.replace(DECLARED, features=FEATURES)


def capture(*features: str, **settings: Any) -> Capture:
    return Capture(enabled=True, features=features, **settings)


def of(version: Manifest, wanted: Capture, secret: bytes = KEY) -> Captured:
    """With `x` and the prediction recorded anyway."""
    return captured(version, wanted, [0], [0], secret)


def test_off_is_nothing() -> None:
    assert of(ALL, Capture()) == Captured((), None)


def test_a_listed_feature_is_taken_from_the_tensor_that_the_monitors_have() -> None:
    extras, excerpt = of(DECLARED, capture("b", sample=0.25))
    assert extras == () and excerpt is not None and excerpt.sample == 0.25
    assert excerpt.cuts == (Cut("b", 0, 1, "FP32", 0), Cut("p", 1, None, "FP32", 1, output=True))


def test_an_input_stands_for_all_its_features_and_for_itself_where_it_has_none() -> None:
    _, excerpt = of(DECLARED, capture("x", "a", "image", "nobody"))
    assert excerpt is not None
    assert [(cut.name, cut.tensor, cut.column, cut.rank) for cut in excerpt.cuts] == [
        ("a", 0, 0, 0), ("b", 0, 1, 0), ("image", 2, None, 2), ("p", 1, None, 1)
    ]  # fmt: skip


def test_nothing_but_the_prediction_without_a_list() -> None:
    extras, excerpt = of(ALL, capture())
    assert extras == () and excerpt is not None and [cut.name for cut in excerpt.cuts] == ["p"]


@pytest.mark.parametrize(
    ("rules", "name", "inputs", "left"),
    [
        ({"user": "truncate:2"}, "user", [[b"alice"], [b"b"]], [b"al", b"b"]),
        ({"x": "truncate:1"}, "b", [[1, 2.66], [0, -0.04]], np.array([2.7, -0.0], np.float32).tolist()),
        ({"b": "truncate:0"}, "b", [[1, np.inf], [0, 1.4]], [np.inf, 1.0]),
        ({"b": "truncate:9999"}, "b", [[1, 1e30], [0, -0.5]], np.array([1e30, -0.5], np.float32).tolist()),
    ],
)
def test_what_is_truncated_is_shorter(rules: dict[str, str], name: str, inputs: list[Any], left: list[Any]) -> None:
    (extra,), _ = of(ALL, capture(name, redact=rules))
    spec = SPECS[extra.place]
    array: Array = np.array(inputs, object if spec.datatype == "BYTES" else np.float32)
    (short,) = extra.of([[array[:1]] * 4, [array[1:]] * 4])
    assert short.tolist() == left and extra.datatype == spec.datatype


def test_equal_values_have_one_hash_under_one_secret() -> None:
    wanted = capture("user", "age", redact={"user": "hash", "age": "hash"})
    users: Array = np.array([[b"alice"], [b"bob"], [b"alice"]], object)
    inputs = [users, users, np.array([1, 2, 1]), users]
    (user, age), excerpt = of(ALL, wanted)
    assert user.datatype == age.datatype == "UINT64" and excerpt is not None
    hashes, ages = (one.of([inputs])[0].tolist() for one in (user, age))
    assert hashes[0] == hashes[2] != hashes[1] and ages[0] == ages[2] != ages[1]
    (other, _), _ = of(ALL, wanted, hashing_key("another cluster"))
    assert set(other.of([inputs])[0].tolist()).isdisjoint(hashes)
    assert user.of([[users[:0]] * 4])[0].shape == (0,)


@pytest.mark.parametrize(
    ("rules", "secret"), [({"age": "truncate:1"}, KEY), ({"age": "drop"}, KEY), ({"age": "hash"}, b"")]
)
def test_what_a_rule_cannot_be_applied_to_is_withheld(rules: dict[str, str], secret: bytes) -> None:
    extras, excerpt = of(ALL, capture("age", redact=rules), secret)
    assert extras == () and excerpt is not None and [cut.name for cut in excerpt.cuts] == ["p"]


def test_an_input_that_may_have_other_rows_than_the_request_is_withheld() -> None:
    dependent = msgspec.structs.replace(ALL, rows_independent=False)
    _, excerpt = of(dependent, capture("image", "a"))
    assert excerpt is not None and [cut.name for cut in excerpt.cuts] == ["a", "p"]


SECRET = b"alice@example.org"


def recorded(
    folder: Path, version: Manifest, wanted: Sequence[Capture], x: Sequence[float] = (1, 2.25)
) -> tuple[list[Record], bytes]:
    """The records of a batch under each of some settings, and the bytes of the whole ring."""

    async def main() -> None:
        ring = RingWriter(folder / "w.ring", 2**16)
        page = Page(folder / "w.page")
        recorder = Recorder(version, page, ring, KEY)
        for one in wanted:
            recorder.capture(one)
            inputs = [np.array([x], np.float32), np.array([[SECRET]], object), np.array([77]),
                      np.full((1, 2, 2), 201, np.uint8)]  # fmt: skip
            item = Item(inputs, 1, 0.0, asyncio.get_running_loop().create_future(), "r0")
            outputs: list[Array] = [np.array([[0.25, 0.75]], np.float32), np.array([9.5], np.float32)]
            recorder.expect(1)
            recorder(Finished([item], [200], [0.0], Result(outputs, 0.001, 0.0)))
        recorder.flush()
        ring.close()
        page.close()

    asyncio.run(main())
    frames = RingReader(folder / "w.ring").read()
    return [decode(frame.payload) for frame in frames], (folder / "w.ring").read_bytes()


def test_without_capture_the_ring_has_what_it_had_before(tmp_path: Path) -> None:
    (one,), ring = recorded(tmp_path, DECLARED, [Capture()])
    assert one.excerpt is None and one.extras == {} and set(one.inputs) == {"x"} and set(one.outputs) == {"p"}
    assert SECRET not in ring and b"\xc9" * 4 not in ring


def test_what_is_neither_monitored_nor_listed_is_not_in_the_ring(tmp_path: Path) -> None:
    (one,), ring = recorded(tmp_path, DECLARED, [capture("a", "image", "q")])
    assert set(one.inputs) == {"x"} and set(one.extras) == {"image"} and set(one.outputs) == {"p"}
    assert one.extras["image"].array().tolist() == [[[201, 201], [201, 201]]]
    assert b"\xc9" * 4 in ring and SECRET not in ring


@pytest.mark.parametrize("rule", ["hash", "truncate:3", "drop"])
def test_what_is_redacted_is_redacted_in_the_ring(tmp_path: Path, rule: str) -> None:
    (one,), ring = recorded(tmp_path, DECLARED, [capture("user", redact={"user": rule})])
    assert SECRET not in ring and SECRET[:4] not in ring
    assert set(one.extras) == (set() if rule == "drop" else {"user"})


def test_what_is_listed_and_not_redacted_is_in_the_ring(tmp_path: Path) -> None:
    (one,), ring = recorded(tmp_path, DECLARED, [capture("user")])
    assert SECRET in ring and one.extras["user"].array().tolist() == [[SECRET]]


def test_a_monitored_column_that_is_redacted_is_captured_from_its_redacted_copy(tmp_path: Path) -> None:
    (one,), _ = recorded(tmp_path, ALL, [capture("user", redact={"user": "hash"})])
    assert one.inputs["user"].array().tolist() == [[SECRET]]  # the monitors count it
    assert one.excerpt is not None
    (cut,) = [cut for cut in one.excerpt.cuts if cut.name == "user"]
    assert cut.tensor == len(one.inputs) + len(one.outputs) and one.extras["user"].datatype == "UINT64"


def test_settings_change_between_two_batches(tmp_path: Path) -> None:
    records, _ = recorded(tmp_path, DECLARED, [Capture(), capture("a"), capture("a"), Capture()])
    assert [one.excerpt is not None for one in records] == [False, True, False]
    assert [one.rows for one in records] == [1, 2, 1]


@pytest.mark.parametrize("x", [[], [1.0]])
@pytest.mark.parametrize("rule", ["hash", "truncate:1"])
def test_a_row_that_is_too_narrow_for_a_redacted_column_is_recorded_without_it(
    tmp_path: Path, rule: str, x: list[float]
) -> None:
    (one,), _ = recorded(tmp_path, DECLARED, [capture("x", redact={"b": rule, "a": "drop"})], x)
    assert one.rows == 1 and one.inputs["x"].array().tolist() == [x]
    assert one.extras["b"].array().shape == (1, 0)
    assert batch([one]).column("inputs").to_pylist() == [{"b": None}]
