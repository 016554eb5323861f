"""The small model of the benchmark: 16 floats -> gradient boosting -> two probabilities, 10 µs in ONNX Runtime."""

import lightgbm
import numpy as np
import onnxmltools
import pyarrow as pa
import pyarrow.parquet as pq
from onnxmltools.convert.common.data_types import FloatTensorType

FEATURES = tuple(f"f{i}" for i in range(16))
ROW = tuple(round(0.1 * (i + 1), 1) for i in range(16))


def rows(count: int = 4000, seed: int = 0) -> pa.Table:
    """Features `f0` to `f15` and `label`, made with a fixed seed."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 16)).astype(np.float32)
    labels = (values[:, 0] + values[:, 1] * values[:, 2] + rng.normal(size=count) > 0).astype(np.int64)
    return pa.table({name: values[:, i] for i, name in enumerate(FEATURES)} | {"label": labels})


def model(table: pa.Table) -> bytes:
    """`x` FP32 [N, 16] -> `label` INT64 [N], `probabilities` FP32 [N, 2]; 100 trees."""
    converted = onnxmltools.convert_lightgbm(
        _fitted(table), initial_types=[("x", FloatTensorType([None, 16]))], zipmap=False, target_opset=15
    )
    return bytes(converted.SerializeToString())


def trees(table: pa.Table) -> str:
    """The same model as LightGBM writes it."""
    return str(_fitted(table).booster_.model_to_string())


def _fitted(table: pa.Table) -> lightgbm.LGBMClassifier:
    values = np.column_stack([table[name].to_numpy() for name in FEATURES])
    return lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, random_state=0).fit(values, table["label"].to_numpy())


def write_reference(table: pa.Table, path: str) -> None:
    pq.write_table(table, path)
