"""The large model of the benchmark: a 3x224x224 image -> a small convolutional network -> 10 scores.

588 KiB a request as a binary tensor; the weights are random with a fixed seed, since only the work matters. About 175
million multiplications an image: 1 to 3 ms in ONNX Runtime with one thread.
"""

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)
LAYERS = ((3, 32, 7, 2), (32, 64, 3, 2), (64, 128, 3, 2))  # channels in and out, kernel, stride
CLASSES = 10


def image(seed: int = 0) -> np.ndarray:
    """FP32 [1, 3, 224, 224]."""
    return np.random.default_rng(seed).normal(size=(1, *SHAPE)).astype(np.float32)


def model(seed: int = 0) -> bytes:
    """`image` FP32 [N, 3, 224, 224] -> `scores` FP32 [N, 10]."""
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for i, (channels, out, kernel, stride) in enumerate(LAYERS):
        constants.append(_weights(rng, f"w{i}", out, channels, kernel, kernel))
        source = f"x{i}" if i else "image"
        padding = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], strides=[stride] * 2, pads=padding))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    constants.append(_weights(rng, "head", LAYERS[-1][1], CLASSES))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{len(LAYERS)}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])]
    graph = helper.make_graph(nodes, "image", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _weights(rng: np.random.Generator, name: str, *shape: int) -> TensorProto:
    """Scaled so that every layer keeps the variance of what comes in."""
    fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    return numpy_helper.from_array((rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32), name)
