"""Small ONNX models for tests, made here rather than stored; each function returns the bytes of a model file.

Friendly ones first (`linear`, `two_inputs`, `classifier`, `text`, `slow`, `row_dependent`, `mean_over_words`,
`rounded_mean_over_words`, `lookup`), then those that must be refused or that bring onnxruntime down (`zipmap`,
`external`, `ep_context`, `unknown_domain`, `deep_functions`, `division_by_zero`, `memory_bomb`, `endless`). N is the
free number of rows.
"""

from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.helper import make_node, make_tensor_value_info

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
OPSETS = {"": 17, "ai.onnx.ml": 3}


def linear(weights: Sequence[float] = (1.0, 2.0), bias: float = 0.0) -> bytes:
    """`x` FP32 [N, k] -> `y` FP32 [N, 1]: y = x @ weights + bias. Rows are independent to the bit."""
    nodes = [
        make_node("Mul", ["x", "w"], ["xw"]),
        make_node("ReduceSum", ["xw", "axis"], ["sum"], keepdims=1),
        make_node("Add", ["sum", "b"], ["y"]),
    ]
    constants = [_floats("w", [list(weights)]), _floats("b", [bias]), _ints("axis", [1])]
    return _model(nodes, [_info("x", FLOAT, "N", len(weights))], [_info("y", FLOAT, "N", 1)], constants)


def two_inputs() -> bytes:
    """`a` FP32 [N, 1], `b` FP32 [N, 1] -> `y` FP32 [N, 1]: y = a - b."""
    inputs = [_info("a", FLOAT, "N", 1), _info("b", FLOAT, "N", 1)]
    return _model([make_node("Sub", ["a", "b"], ["y"])], inputs, [_info("y", FLOAT, "N", 1)])


def classifier(weights: Sequence[float] = (1.0, -1.0), bias: float = 0.0) -> bytes:
    """`x` FP32 [N, k] -> `label` INT64 [N], `probabilities` FP32 [N, 2]; column 1 is sigmoid(x @ weights + bias)."""
    nodes = [
        make_node("Mul", ["x", "w"], ["xw"]),
        make_node("ReduceSum", ["xw", "axis"], ["sum"], keepdims=1),
        make_node("Add", ["sum", "b"], ["logit"]),
        make_node("Sigmoid", ["logit"], ["p"]),
        make_node("Sub", ["one", "p"], ["not_p"]),
        make_node("Concat", ["not_p", "p"], ["probabilities"], axis=1),
        make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    constants = [_floats("w", [list(weights)]), _floats("b", [bias]), _floats("one", [1.0]), _ints("axis", [1])]
    outputs = [_info("label", INT64, "N"), _info("probabilities", FLOAT, "N", 2)]
    return _model(nodes, [_info("x", FLOAT, "N", len(weights))], outputs, constants)


def text() -> bytes:
    """`text` BYTES [N, 1] -> `echo` BYTES [N, 1], the same, and `score` FP32 [N, 1]: good 1, bad -1, others 0."""
    score = make_node(
        "LabelEncoder",
        ["text"],
        ["score"],
        domain="ai.onnx.ml",
        keys_strings=["good", "bad"],
        values_floats=[1.0, -1.0],
        default_float=0.0,
    )
    outputs = [_info("echo", STRING, "N", 1), _info("score", FLOAT, "N", 1)]
    return _model([make_node("Identity", ["text"], ["echo"]), score], [_info("text", STRING, "N", 1)], outputs)


def slow(steps: int = 1000, size: int = 64) -> bytes:
    """`x` FP32 [N, 1] -> `y` FP32 [N, 1], y = x, after `steps` products of size x size matrices, whatever N is.

    About 3 µs a step of the default size and 1 thread (6,500 steps: 20 ms);
    a running loop can be terminated between steps.
    """
    body = helper.make_graph(
        [make_node("Identity", ["go"], ["go_on"]), make_node("MatMul", ["m", "turn"], ["m_next"])],
        "body",
        [_info("i", INT64), _info("go", TensorProto.BOOL), _info("m", FLOAT, size, size)],
        [_info("go_on", TensorProto.BOOL), _info("m_next", FLOAT, size, size)],
    )
    nodes = [  # the trip count depends on N, so that nothing is computed when the model is loaded
        make_node("Shape", ["x"], ["n"], start=0, end=1),
        make_node("Min", ["n", "one"], ["some"]),
        make_node("Mul", ["some", "steps"], ["trips"]),
        make_node("Loop", ["trips", "", "turn"], ["m_end"], body=body),
        make_node("ReduceMax", ["m_end"], ["top"], keepdims=0),
        make_node("Mul", ["top", "zero"], ["nothing"]),
        make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = [
        _ints("one", [1]),
        _ints("steps", [steps]),
        numpy_helper.from_array(np.eye(size, dtype=np.float32)[::-1].copy(), "turn"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    return _model(nodes, [_info("x", FLOAT, "N", 1)], [_info("y", FLOAT, "N", 1)], constants)


def row_dependent(columns: int = 2) -> bytes:
    """`x` FP32 [N, columns] -> `y` of the same shape: x less its mean over the rows, so requests must run alone."""
    nodes = [make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), make_node("Sub", ["x", "mean"], ["y"])]
    return _model(nodes, [_info("x", FLOAT, "N", columns)], [_info("y", FLOAT, "N", columns)])


def mean_over_words(words: int = 18, width: int = 384) -> bytes:
    """`x` FP32 [N, words, width] -> `y` FP32 [N, width], the mean over the words, as text encoders have it.

    ONNX Runtime adds in another order for one row than for several: rows differ in the last bits, and not in more.
    """
    node = make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)
    return _model([node], [_info("x", FLOAT, "N", words, width)], [_info("y", FLOAT, "N", width)])


def rounded_mean_over_words() -> bytes:
    """`x` FP32 [N, 18, 384] -> `y` INT64 [N, 384]: the mean over the words in units of 1e-7, as whole numbers."""
    nodes = [
        make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        make_node("Mul", ["mean", "scale"], ["scaled"]),
        make_node("Cast", ["scaled"], ["y"], to=INT64),
    ]
    return _model(nodes, [_info("x", FLOAT, "N", 18, 384)], [_info("y", INT64, "N", 384)], [_floats("scale", [1e7])])


def lookup(table: Sequence[float] = (10.0, 20.0, 30.0)) -> bytes:
    """`index` INT64 [N] -> `y` FP32 [N]: y = table[index]; the run fails on an index outside the table."""
    node = make_node("Gather", ["table", "index"], ["y"])
    return _model([node], [_info("index", INT64, "N")], [_info("y", FLOAT, "N")], [_floats("table", table)])


def fixed_rows(rows: int = 4) -> bytes:
    """`x` FP32 [rows, 2] -> `y` FP32 [rows, 2]: y = -x; the number of rows is not free."""
    return _model([make_node("Neg", ["x"], ["y"])], [_info("x", FLOAT, rows, 2)], [_info("y", FLOAT, rows, 2)])


def zipmap() -> bytes:
    """`x` FP32 [N, 2] -> `maps`, a sequence of maps, as converters make it by default."""
    node = make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, None))
    )
    return _model([node], [_info("x", FLOAT, "N", 2)], [helper.make_value_info("maps", kind)])


def external(location: str = "weights.bin") -> bytes:
    """A model whose weights lie in another file."""
    weights = TensorProto(name="w", data_type=FLOAT, dims=[1, 2], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    inputs, outputs = [_info("x", FLOAT, "N", 2)], [_info("y", FLOAT, "N", 2)]
    return _model([make_node("Mul", ["x", "w"], ["y"])], inputs, outputs, [weights])


def ep_context() -> bytes:
    """A graph precompiled for a device, whose content is a blob or another file."""
    node = make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="../secret")
    return _model([node], [_info("x", FLOAT, "N", 2)], [_info("y", FLOAT, "N", 2)], domains=["com.microsoft"])


def unknown_domain(domain: str = "com.example.custom") -> bytes:
    """An operator that onnxruntime does not have."""
    node = make_node("Magic", ["x"], ["y"], domain=domain)
    return _model([node], [_info("x", FLOAT, "N", 2)], [_info("y", FLOAT, "N", 2)], domains=[domain])


def deep_functions(depth: int = 5000) -> bytes:
    """Functions that call each other `depth` deep: a segmentation fault of onnxruntime while loading."""
    calls = [make_node(f"f{i + 1}", ["a"], ["b"], domain="chain") for i in range(depth - 1)]
    functions = [_function(f"f{i}", node) for i, node in enumerate([*calls, make_node("Neg", ["a"], ["b"])])]
    node = make_node("f0", ["x"], ["y"], domain="chain")
    inputs, outputs = [_info("x", FLOAT, "N", 2)], [_info("y", FLOAT, "N", 2)]
    return _model([node], inputs, outputs, domains=["chain"], functions=functions)


def division_by_zero() -> bytes:
    """DepthToSpace with a block size of 2^32: a floating-point exception of onnxruntime while loading."""
    node = make_node("DepthToSpace", ["x"], ["y"], blocksize=2**32)
    return _model([node], [_info("x", FLOAT, 1, 4, 2, 2)], [_info("y", FLOAT, "A", "B", "C", "D")])


def memory_bomb(gibibytes: float = 3.0) -> bytes:
    """A small file whose constant takes `gibibytes` of memory: while it loads up to 1 GiB, else when it runs."""
    node = make_node("ConstantOfShape", ["shape"], ["big"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    nodes = [node, make_node("ReduceMax", ["big"], ["top"], keepdims=0), make_node("Add", ["x", "top"], ["y"])]
    shape = [_ints("shape", [int(gibibytes * 2**28)])]
    return _model(nodes, [_info("x", FLOAT, "N", 1)], [_info("y", FLOAT, "N", 1)], shape)


def endless(size: int = 64) -> bytes:
    """A model whose first run takes days."""
    return slow(steps=2**40, size=size)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
    domains: Sequence[str] = (),
    functions: Sequence[FunctionProto] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    opsets = [helper.make_opsetid(d, v) for d, v in OPSETS.items()] + [helper.make_opsetid(d, 1) for d in domains]
    model: ModelProto = helper.make_model(
        graph, opset_imports=opsets, functions=functions, ir_version=8, producer_name="gaugeway-tests"
    )
    return bytes(model.SerializeToString())


def _function(name: str, node: NodeProto) -> FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("chain", 1)]
    return helper.make_function("chain", name, ["a"], ["b"], [node], opsets)


def _info(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return make_tensor_value_info(name, kind, shape)


def _floats(name: str, values: Sequence[float] | Sequence[Sequence[float]]) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def _ints(name: str, values: Sequence[int]) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)
