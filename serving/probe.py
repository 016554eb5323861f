"""The child process of `serving.validation`: reads, loads, warms, probes and measures one model, then ends.

The only file that imports onnx, whose parser meets hostile files too. Started as ``python -m serving.probe`` with an
`Order` on standard input; it writes a `Line` of JSON for each phase it enters and one with what came of it.
"""

import ctypes
import functools
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from serving.agreement import APART, Agreement, compare, worst
from serving.errors import ModelFailure, PublishRefused
from serving.protocol import DATATYPES, Array, Signature
from serving.record import Column
from serving.runtime import Session, repeated
from serving.speed import Timed, timed
from serving.validation import Findings, Limits, Line, Order, column

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
POOL, TOGETHER, CHUNK = 32, (2, 3, 8), 256  # rows of a probe, of its runs, of a run that predicts
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal when the parent is gone
MOST_ROWS, TIMING_S = 256, 0.5  # of the batches that are timed
_SLOW_S = 0.5  # a model slower than this is probed with three rows
_WORDS = np.array([b"", b"a", b"good", b"bad", b"1"], object)

Feed = Mapping[str, Array]
Say = Callable[[Line], None]


def inspect(data: bytes) -> dict[str, str]:
    """Facts of a model file (producer, opset, IR version), read without running anything.

    Raises PublishRefused for what is not ONNX, not self-contained, or not made of standard operators.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise PublishRefused("not an ONNX file, or a truncated one: it does not parse as a protobuf message") from None
    if not model.HasField("graph") or not model.opset_import:
        raise PublishRefused("not an ONNX file, or a truncated one: it has no graph with an operator set")
    functions = {(f.domain, f.name) for f in model.functions}
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            _check_tensor(message)
        elif isinstance(message, onnx.NodeProto):
            _check_node(message, functions)
    for side, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            _check_value(value, side)
    return {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import),
        "ir_version": str(model.ir_version),
    }


def examine(order: Order, say: Say) -> Findings:
    """All phases over the model of `order`; writes the predictions for its rows. Raises PublishRefused."""
    data = Path(order.model).read_bytes()
    say(Line(phase="reading"))
    facts = inspect(data)
    say(Line(phase="loading"))
    start = time.monotonic()
    session = Session(data)
    load_s = time.monotonic() - start
    if not session.signature.inputs:
        raise PublishRefused("the model has no inputs")
    rows = _rows(order.rows) if order.rows else None
    if order.together is not None and rows is not None:
        _write_predictions(session, rows, order.together, order.predictions, say)
        return Findings(session.signature, order.together, None, load_s, 0.0, facts)
    say(Line(phase="warming up"))
    feed = _warm(session, rows)
    say(Line(phase="probing"))
    latency_s = _latency_s(session, feed)
    agreement = _agreement(session, rows, POOL if latency_s < _SLOW_S else 3)
    independent = agreement.within(order.batch_tolerance)
    signature = _corrected(session, feed)
    say(Line(phase="timing batches"))
    times = _times(session, feed) if independent else ()
    if rows is not None:
        _write_predictions(session, rows, independent, order.predictions, say)
    return Findings(signature, independent, agreement.measured, load_s, latency_s, facts, times)


def confine(limits: Limits) -> None:
    """Put this process under `limits`, for ever: memory, CPU time, no core; it ends with its parent or by alarm."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s + 1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    channel = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no line of ours
    phases = ["starting"]

    def say(line: Line) -> None:
        phases.append(line.phase or phases[-1])
        os.write(channel, msgspec.json.encode(line) + b"\n")

    confine(order.limits)
    try:
        say(Line(findings=examine(order, say)))
    except (PublishRefused, ModelFailure, MemoryError) as error:
        say(Line(refused=_reason(error, phases[-1], order.limits)))


def _reason(error: Exception, phase: str, limits: Limits) -> str:
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "allocate memory")):
        return f"the model needs more than {limits.memory_bytes / 2**30:.3g} GiB of memory while {phase}"
    return f"{error} (while {phase})" if isinstance(error, ModelFailure) else str(error)


def _messages(root: Message) -> Iterator[Message]:
    """Every message below `root`, without recursion: subgraphs, functions, attributes, training information."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if hasattr(value, "__len__") else [value])


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise PublishRefused(
            f"tensor {tensor.name!r} lies in an external file; save the model as one file"
            " (onnx.save with save_as_external_data=False)"
        )


def _check_node(node: onnx.NodeProto, functions: set[tuple[str, str]]) -> None:
    if node.op_type == "EPContext":
        raise PublishRefused(
            "the model holds an EPContext node, precompiled for one device; publish the model it was compiled from"
        )
    if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
        raise PublishRefused(
            f"operator {node.op_type!r} is of the unknown domain {node.domain!r};"
            " export the model with standard operators, or with the operator as a function in the file"
        )


def _check_value(value: onnx.ValueInfoProto, side: str) -> None:
    kind = value.type.WhichOneof("value")
    if kind == "sequence_type" and value.type.sequence_type.elem_type.HasField("map_type"):
        raise PublishRefused(
            f"{side} {value.name!r} is a sequence of maps; convert the model again with zipmap=False"
            " (skl2onnx: options={'zipmap': False}) and it becomes a tensor"
        )
    if kind not in ("tensor_type", None):
        raise PublishRefused(f"{side} {value.name!r} is not a tensor but a {kind.removesuffix('_type')}")


def _rows(path: str) -> dict[str, Array]:
    columns = msgspec.msgpack.decode(Path(path).read_bytes(), type=dict[str, Column])
    return {name: item.array() for name, item in columns.items()}


def _warm(session: Session, rows: Feed | None) -> Feed:
    """Inputs that the model was seen to accept: given rows, else blank ones. One row, or as many as it is fixed to."""
    if rows is None:
        return _part(session.signature, session.warm(), 0, 1)
    part = _part(session.signature, rows, 0, _step(session.signature))
    session.run(part)
    return part


def _latency_s(session: Session, feed: Feed) -> float:
    """Median seconds of runs of one row: 21 runs, or those that fit into two seconds."""
    times: list[float] = []
    until = time.monotonic() + 2
    while len(times) < 21 and (not times or time.monotonic() < until):
        start = time.perf_counter()
        session.run(feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _times(session: Session, feed: Feed) -> tuple[Timed, ...]:
    """Of the row of `feed`, many times over."""
    batches = functools.cache(functools.partial(repeated, feed, session.signature))
    return timed(lambda rows: session.run(batches(rows)), MOST_ROWS, TIMING_S, time.perf_counter)


def _agreement(session: Session, rows: Feed | None, pool: int) -> Agreement:
    """How far rows, random and given, run together are from those run apart; APART when it cannot be seen."""
    if not _free(session.signature):
        return APART
    verdicts = [_together(session, feed) for feed in _pools(session.signature, rows, pool)]
    return worst(verdict for verdict in verdicts if verdict is not None)


def _pools(signature: Signature, rows: Feed | None, pool: int) -> Iterator[Feed]:
    rng = np.random.default_rng(0)
    for size in (1, 8) if any(-1 in spec.shape[1:] for spec in signature.inputs) else (1,):
        feed = {}
        for spec in signature.inputs:
            shape = tuple(pool if i == 0 else size if n < 0 else n for i, n in enumerate(spec.shape))
            feed[spec.name] = _random(rng, spec.datatype, shape)
        yield feed
    if rows is not None:
        count = len(next(iter(rows.values())))
        if count >= 3:
            spread = np.unique(np.linspace(0, count - 1, pool).astype(int))
            yield {name: array[spread] for name, array in rows.items()}


def _random(rng: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return np.asarray(rng.choice(_WORDS, shape))
    if datatype.startswith("FP"):
        return rng.standard_normal(shape).astype(DATATYPES[datatype])
    return rng.integers(0, 2, shape).astype(DATATYPES[datatype])


def _together(session: Session, feed: Feed) -> Agreement | None:
    """The worst of runs of several sizes. None when the model does not accept these rows."""
    count = len(next(iter(feed.values())))
    try:
        alone = [session.run(_part(session.signature, feed, i, 1)) for i in range(count)]
    except ModelFailure:
        return None
    if any(not output.shape or len(output) != 1 for output in alone[0]):
        return APART
    sizes = [*(size for size in TOGETHER if size < count), count]
    return worst(_agree(session, _part(session.signature, feed, 0, size), alone[:size]) for size in sizes)


def _agree(session: Session, feed: Feed, alone: list[list[Array]]) -> Agreement:
    try:
        together = session.run(feed)
        stacked = [np.concatenate(output) for output in zip(*alone, strict=True)]
    except (ModelFailure, ValueError):  # ValueError: outputs of single rows differ in shape
        return APART
    return worst(compare(a, b) for a, b in zip(together, stacked, strict=True))


def _corrected(session: Session, feed: Feed) -> Signature:
    """The signature with outputs' rows as measured: converters declare [1] where [N] comes out."""
    signature = session.signature
    if not _free(signature):
        return signature
    try:
        one, two = session.run(feed), session.run({name: np.concatenate([a, a]) for name, a in feed.items()})
    except ModelFailure:
        return signature
    outputs = []
    for spec, single, double in zip(signature.outputs, one, two, strict=True):
        shape = spec.shape if len(spec.shape) == single.ndim else (-1,) * single.ndim
        grows = single.ndim > 0 and len(single) == 1 and len(double) == 2
        outputs.append(msgspec.structs.replace(spec, shape=(-1, *shape[1:]) if grows else shape))
    return Signature(signature.inputs, tuple(outputs))


def _write_predictions(session: Session, rows: Feed, independent: bool, path: str, say: Say) -> None:
    say(Line(phase="predicting"))
    outputs = _predict(session, rows, independent)
    Path(path).write_bytes(msgspec.msgpack.encode([column(output) for output in outputs]))


def _predict(session: Session, rows: Feed, independent: bool) -> list[Array]:
    count, step = len(next(iter(rows.values()))), CHUNK if independent else _step(session.signature)
    parts = []
    for start in range(0, count, step):
        try:
            parts.append(session.run(_part(session.signature, rows, start, step)))
        except ModelFailure as error:
            where = f"row {start}" if step == 1 else f"rows {start} to {min(start + step, count) - 1}"
            raise PublishRefused(f"the model fails on reference {where}: {error}") from None
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _step(signature: Signature) -> int:
    """Rows of a run that is sure to be right: one. Raises PublishRefused where a row cannot run alone."""
    for spec in signature.inputs:
        if not spec.shape or spec.shape[0] not in (-1, 1):
            raise PublishRefused(
                f"input {spec.name!r} has shape {list(spec.shape)}: reference rows need inputs that take one row"
            )
    return 1


def _free(signature: Signature) -> bool:
    return all(spec.shape[:1] == (-1,) for spec in signature.inputs)


def _part(signature: Signature, feed: Feed, start: int, rows: int) -> dict[str, Array]:
    """Rows start to start + rows of the inputs; an input whose axis 0 is fixed above 1 stays whole."""
    whole = {spec.name for spec in signature.inputs if spec.shape[:1] not in ((-1,), (1,))}
    return {name: array if name in whole else array[start : start + rows] for name, array in feed.items()}


if __name__ == "__main__":
    main()
