"""The models of the suite: ``python -m tests.conformance.models FOLDER`` writes them as FOLDER/<name>/1/model.onnx."""

import sys
from pathlib import Path

from onnx import TensorProto, helper

from tests.models import classifier

WEIGHTS = (0.5, -1.0, 2.0, 0.25)  # of `conformance`: x FP32 [N, 4] -> label INT64 [N], probabilities FP32 [N, 2]
ECHOED = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def conformance() -> bytes:
    """One input, two outputs."""
    return classifier(WEIGHTS)


def echo() -> bytes:
    """`in_<datatype>` [any length] -> `out_<datatype>`, the same; `in_scalar` FP32 [] -> `out_scalar`."""
    shapes = {datatype: (kind, [f"n_{datatype}"]) for datatype, kind in ECHOED.items()}
    shapes["scalar"] = (TensorProto.FLOAT, [])
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in shapes],
        "echo",
        [helper.make_tensor_value_info(f"in_{name}", *shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(f"out_{name}", *shape) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


MODELS = {"conformance": conformance, "echo": echo}


def write(folder: Path) -> None:
    for name, build in MODELS.items():
        path = folder / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(build())
        print(path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
