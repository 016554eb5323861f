"""The text model of the benchmark: tokens of a sentence -> its embedding, all-MiniLM-L6-v2.

The weights ship in a package, in the format of PyTorch; the graph is built here: six layers of a BERT encoder, then the
mean over the tokens, at length 1, as the model's card has it. Words are looked up whole, so there is no tokenizer.
"""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

SENTENCE = "the quick brown fox jumps over the lazy dog while the cat sleeps in the sun"
WIDTH, HEADS, LAYERS = 384, 12, 6
EPSILON = 1e-12


class Encoder:
    """Builds the graph; nodes are written in the order in which they run."""

    def __init__(self, package: Path) -> None:
        with zipfile.ZipFile(package) as files:
            self._weights = _safetensors(files.read("model.safetensors"))
            self._vocabulary: dict[str, int] = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def tokens(self) -> np.ndarray:
        """INT64 [1, 18]: the sentence between its marks."""
        words = ["[CLS]", *SENTENCE.split(), "[SEP]"]
        return np.array([[self._vocabulary[word] for word in words]], np.int64)

    def model(self) -> bytes:
        """`tokens` INT64 [N, L] -> `embedding` FP32 [N, 384], of length 1; all sentences of a run equally long."""
        x = self._embedded("tokens")
        for layer in range(LAYERS):
            x = self._layer(f"encoder.layer.{layer}", x)
        mean = self._add("ReduceMean", x, axes=[1], keepdims=0)
        self._nodes.append(helper.make_node("LpNormalization", [mean], ["embedding"], axis=1, p=2))
        inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", "L"])]
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", WIDTH])]
        graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", inputs, outputs, self._constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(made.SerializeToString())

    def _embedded(self, tokens: str) -> str:
        """Words, their places, and that all belong to the first of BERT's two sentences."""
        words = self._add("Gather", self._weight("embeddings.word_embeddings.weight"), tokens)
        length = self._add("Shape", tokens, start=1, end=2)
        table = self._weight("embeddings.position_embeddings.weight")
        places = self._add("Slice", table, self._constant("zero", np.array([0])), length)
        kind = self._constant("kind", self._weights["embeddings.token_type_embeddings.weight"][0])
        return self._normal("embeddings.LayerNorm", self._add("Add", self._add("Add", words, places), kind))

    def _layer(self, name: str, x: str) -> str:
        attended = self._linear(f"{name}.attention.output.dense", self._attention(f"{name}.attention.self", x))
        x = self._normal(f"{name}.attention.output.LayerNorm", self._add("Add", attended, x))
        inner = self._gelu(self._linear(f"{name}.intermediate.dense", x))
        return self._normal(
            f"{name}.output.LayerNorm", self._add("Add", self._linear(f"{name}.output.dense", inner), x)
        )

    def _attention(self, name: str, x: str) -> str:
        """softmax(q k' / sqrt(d)) v for every head."""
        split = self._constant("split", np.array([0, 0, HEADS, WIDTH // HEADS]))
        q, k, v = (self._add("Reshape", self._linear(f"{name}.{one}", x), split) for one in ("query", "key", "value"))
        q, v = (self._add("Transpose", one, perm=[0, 2, 1, 3]) for one in (q, v))
        scores = self._add("MatMul", q, self._add("Transpose", k, perm=[0, 2, 3, 1]))
        root = self._constant("root", np.array(np.sqrt(WIDTH / HEADS), np.float32))
        weights = self._add("Softmax", self._add("Div", scores, root), axis=-1)
        joined = self._add("Transpose", self._add("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self._add("Reshape", joined, self._constant("join", np.array([0, 0, WIDTH])))

    def _gelu(self, x: str) -> str:
        """x (1 + erf(x / sqrt(2))) / 2."""
        root, one, half = (self._constant(f"g{v:.2f}", np.array(v, np.float32)) for v in (np.sqrt(2), 1.0, 0.5))
        erf = self._add("Erf", self._add("Div", x, root))
        return self._add("Mul", self._add("Mul", x, self._add("Add", erf, one)), half)

    def _linear(self, name: str, x: str) -> str:
        """PyTorch keeps the weights the other way round."""
        weights = self._constant(f"{name}.weight", self._weights[f"{name}.weight"].T.copy())
        return self._add("Add", self._add("MatMul", x, weights), self._weight(f"{name}.bias"))

    def _normal(self, name: str, x: str) -> str:
        scale, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._add("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPSILON)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, value: np.ndarray) -> str:
        if all(one.name != name for one in self._constants):
            self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node more; the name of what it gives."""
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The FP32 tensors of a file: its header's length, a header in JSON with the offsets, the bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    start = 8 + length
    found = {}
    for name, one in json.loads(data[8:start]).items():
        if one.get("dtype") == "F32":
            begin, end = one["data_offsets"]
            found[name] = np.frombuffer(data[start + begin : start + end], np.float32).reshape(one["shape"])
    return found
