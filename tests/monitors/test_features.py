import msgspec
import numpy as np

from monitors.bundle import bundles, join
from monitors.features import column, declared, of_unit, tensors
from monitors.reference import build
from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Array, Signature
from serving.record import Column, Record
from tests.monitors.traffic import packed

MANIFEST = Manifest(
    model="flights",
    version="1",
    files={},
    signature=Signature((), ()),
    rows_independent=True,
    task="classification",
    prediction=Prediction("probabilities", 1),
    features=(
        Feature("hour", "x", 0),
        Feature("distance", "x", 2),
        Feature("carrier", "c", kind="categorical"),
        Feature("age", "age"),
    ),
)


def record(rows: int = 3, **inputs: Column) -> Record:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    carriers = np.array([b"AA", b"UA", b"DL"] * rows, object)[:rows]
    columns = {
        "x": Column.of("FP32", x),
        "c": Column.of("BYTES", carriers.reshape(rows, 1)),
        "age": Column.of("INT64", np.arange(rows)),
    }
    probabilities = np.stack([np.zeros(rows), np.full(rows, 0.25)], axis=1).astype(np.float32)
    return Record(
        model="flights",
        version="1",
        digest="",
        role="primary",
        ids=["a"],
        first_rows=[0],
        counts=[rows],
        reasons=["weight"],
        propensities=[1.0],
        keys=[0],
        event_times=[0.0],
        arrival_times=[0.0],
        statuses=[200],
        queue_s=[0.0],
        infer_s=0.0,
        inputs=columns | inputs,
        outputs={"probabilities": Column.of("FP32", probabilities)},
    )


def values(*records: Record) -> dict[str, Array]:
    """Each declared feature of records of one layout, and the prediction."""
    (bundle, which), *others = bundles(found := packed(records), join(found))
    assert not others and which.all()
    arrays = tensors(bundle, MANIFEST)
    return {f.name: column(arrays[f.input], f.column) for f in declared(MANIFEST, bundle.layout)}


def failed() -> Record:
    return msgspec.structs.replace(record(), inputs={}, outputs={})


def test_columns_inputs_and_the_prediction() -> None:
    found = values(record())
    assert {name: column.tolist() for name, column in found.items()} == {
        "hour": [0, 3, 6],
        "distance": [2, 5, 8],
        "carrier": [b"AA", b"UA", b"DL"],
        "age": [0, 1, 2],
        "_prediction": [0.25] * 3,
    }
    assert found["hour"].dtype == np.float32


def test_records_together_are_the_records_one_after_the_other() -> None:
    records = [record(1), record(4), record(2)]
    apart = [values(one) for one in records]
    for name, joined in values(*records).items():
        assert joined.tolist() == np.concatenate([one[name] for one in apart]).tolist()


def test_an_input_that_is_not_recorded_is_left_out() -> None:
    one = record()
    without = msgspec.structs.replace(one, inputs={"x": one.inputs["x"]})
    assert set(values(without)) == {"hour", "distance", "_prediction"}
    assert values(failed()) == {}


def test_a_version_without_prediction() -> None:
    (bundle, _), *_ = bundles(found := packed([record()]), join(found))
    without = msgspec.structs.replace(MANIFEST, prediction=None)
    assert "_prediction" not in {feature.name for feature in declared(without, bundle.layout)}
    assert "_prediction" not in tensors(bundle, without)


def test_bf16_is_read_as_the_number_it_is() -> None:
    bits = (np.array([1.5, -2.0, 0.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert values(record(age=Column.of("BF16", bits)))["age"].tolist() == [1.5, -2.0, 0.0]


def test_where_the_reference_counts_other_rows_that_is_said() -> None:
    x = {"user": np.arange(800.0)}
    every = build(x, {"user": "numeric"})
    once = msgspec.structs.replace(every, cluster="user")
    user = [Feature("user", "x", 0)]
    assert of_unit("row", user, every) == of_unit("block", user, every) == of_unit("cluster:user", user, once) == ()
    (said,) = of_unit("cluster:user", user, every)
    assert said.startswith("of the reference's rows all are counted, of live ones one of each user and block is")
    (said,) = of_unit("row", user, once)
    assert said.startswith("of the reference's rows one of each user and block is counted, of live ones all are")
    (said,) = of_unit("cluster:plane", user, every)
    assert said.startswith("nothing is judged but harm")
