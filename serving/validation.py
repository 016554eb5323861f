"""The disposable child process that loads, warms, probes and measures a version before it is accepted.

A hostile or broken model file can crash onnxruntime, exhaust memory or never return: it does so in a process of its
own, `serving.probe`, with limits on memory, CPU time and wall time, an empty working folder and no environment. That
process says which phase it is in, so that its death can be told in one sentence.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from serving.errors import PublishRefused
from serving.protocol import DATATYPES, Array, Signature
from serving.record import Column
from serving.speed import Timed

_NAMES = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}
_MEMORY_RATIO = 8  # of a large file: it is parsed twice and run
_ROWS_RATIO = 4  # of rows: they are read, unpacked and run
_TIME_RATIO = 2  # of a row that is run alone: the machine may have other work
MAX_MODEL_BYTES = 2**31 - 1  # of a protobuf message


class Limits(msgspec.Struct, frozen=True):
    """What the child may use. Address space is somewhat more than the memory that is really touched."""

    memory_bytes: int = 4 * 2**30
    cpu_s: int = 60
    wall_s: float = 120.0


class Order(msgspec.Struct, frozen=True):
    """What the child is told: the file with the model, that with the rows if there are any, its limits.

    `batch_tolerance`: how far rows run together may be from rows run alone and still count as independent. `together`:
    whether rows may be run together; None: that and all else is to be found out, before the rows are run.
    """

    model: str
    rows: str | None
    predictions: str
    limits: Limits
    batch_tolerance: float = 0.0
    together: bool | None = None


class Findings(msgspec.Struct, frozen=True):
    """What the child measured. `facts` are producer, opset and IR version of the file."""

    signature: Signature
    rows_independent: bool
    batch_difference: float | None
    load_s: float
    latency_s: float
    facts: dict[str, str]
    batch_times: tuple[Timed, ...] = ()


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the child's standard output: it entered a phase, refused the model, or has its findings."""

    phase: str | None = None
    refused: str | None = None
    findings: Findings | None = None


class Report(Findings, frozen=True):
    """Findings and the outputs for the given rows, in the order of the signature (None without rows).

    `signature` is the declared one with the rows of outputs corrected by what was measured; `rows_independent`: rows
    run apart and together gave the same bits, or differed by no more than was allowed; `batch_difference`: by how much
    they differed (`agreement.Agreement`), None when not at all or by no number; `latency_s` is the median of runs of
    one row; `batch_times` are there when rows are independent.
    """

    predictions: list[Array] | None = None


def validate(
    model: bytes | Path,
    rows: Mapping[str, Array] | None = None,
    limits: Limits | None = None,
    *,
    batch_tolerance: float = 0.0,
) -> Report:
    """Load, warm and probe `model` in a child, and run `rows` (input name -> array, rows along axis 0) through it.

    Raises PublishRefused with the reason.
    """
    data = model if isinstance(model, bytes) else read_model(model)
    findings, outputs = _examined(data, rows, limits, batch_tolerance, None)
    return Report(**{name: getattr(findings, name) for name in Findings.__struct_fields__}, predictions=outputs)


def enough(model: bytes, rows: Mapping[str, Array] | None, latency_s: float = 0.0) -> Limits:
    """Limits that leave an honest model room for its size and for `rows`, each of which takes up to `latency_s`.

    >>> import numpy as np
    >>> enough(b"", {"x": np.zeros((1_000_000, 2), np.float32)}, 100e-6)
    Limits(memory_bytes=4326967296, cpu_s=260, wall_s=320.0)
    """
    least, arrays = Limits(), (rows or {}).values()
    spent_s = math.ceil(_TIME_RATIO * latency_s * max(map(len, arrays), default=0))
    memory_bytes = max(least.memory_bytes, _MEMORY_RATIO * len(model)) + _ROWS_RATIO * sum(a.nbytes for a in arrays)
    return Limits(memory_bytes, least.cpu_s + spent_s, least.wall_s + spent_s)


def predict(model: bytes, rows: Mapping[str, Array], together: bool, limits: Limits | None = None) -> list[Array]:
    """Run `rows` through a validated model, in a child of their own; outputs in the order of the signature.

    `together`: whether rows may be run together. Raises PublishRefused with the reason.
    """
    outputs = _examined(model, rows, limits, 0.0, together)[1]
    assert outputs is not None
    return outputs


def _examined(
    data: bytes, rows: Mapping[str, Array] | None, limits: Limits | None, batch_tolerance: float, together: bool | None
) -> tuple[Findings, list[Array] | None]:
    limits = limits or enough(data, rows)
    with tempfile.TemporaryDirectory(prefix="gaugeway-publish-") as folder:
        order = _prepare(Path(folder), data, rows, limits, batch_tolerance, together)
        findings = _judge(*_run_child(Path(folder), order), limits)
        outputs = None if rows is None else _columns((Path(folder) / "predictions").read_bytes())
    return findings, outputs


def read_model(path: Path) -> bytes:
    """The bytes of a regular file of at most 2 GiB. Raises PublishRefused."""
    try:
        if not path.is_file():
            raise PublishRefused(f"{path} is not a file" if path.exists() else f"there is no file {path}")
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise PublishRefused(f"{path} has {path.stat().st_size} bytes; an ONNX file has at most 2 GiB")
        return path.read_bytes()
    except OSError as error:
        raise PublishRefused(f"cannot read {path}: {error.strerror}") from None


def _prepare(
    folder: Path, model: bytes, rows: Mapping[str, Array] | None, limits: Limits, batch_tolerance: float,
    together: bool | None,
) -> Order:  # fmt: skip
    (folder / "empty").mkdir()
    (folder / "model").write_bytes(model)
    if rows is not None:
        (folder / "rows").write_bytes(msgspec.msgpack.encode({name: column(array) for name, array in rows.items()}))
    given = str(folder / "rows") if rows is not None else None
    return Order(str(folder / "model"), given, str(folder / "predictions"), limits, batch_tolerance, together)


def _run_child(folder: Path, order: Order) -> tuple[int | None, list[Line], str]:
    """Exit status (negative: a signal; None: over its time), the lines it wrote, the end of its standard error."""
    with (folder / "stderr").open("wb+") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", "serving.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=folder / "empty",
            env={"PYTHONPATH": os.pathsep.join(filter(None, map(_absolute, sys.path))), "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            out, _ = child.communicate(msgspec.json.encode(order), order.limits.wall_s)
            status: int | None = child.returncode
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(child)
        if status is None:
            out, _ = child.communicate()
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 4096))
        return status, _lines(out), complaints.read().decode(errors="replace").strip()


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else os.getcwd()


def _end(child: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)  # it leads a group of its own
    except ProcessLookupError:
        return
    child.wait()


def _lines(out: bytes) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in out.split(b"\n")[:-1]]


def _judge(status: int | None, lines: list[Line], complaint: str, limits: Limits) -> Findings:
    phase = next((line.phase for line in reversed(lines) if line.phase), "starting")
    for line in lines:
        if line.refused:
            raise PublishRefused(line.refused)
        if line.findings and status == 0:
            return line.findings
    if status is None:
        raise PublishRefused(f"the validation process took more than {limits.wall_s:g} s while {phase}")
    if status == -signal.SIGXCPU:
        raise PublishRefused(f"the validation process took more than {limits.cpu_s} s of CPU time while {phase}")
    if status < 0:
        hint = "; is memory short?" if status == -signal.SIGKILL else ""
        raise PublishRefused(f"the validation process died of signal {-status} while {phase}{hint}")
    last = complaint.splitlines()[-1][:300] if complaint else f"exit status {status}"
    raise PublishRefused(f"the validation process failed while {phase}: {last}")


def column(array: Array) -> Column:
    """An array on its way between the processes; never by pickle."""
    return Column.of(_NAMES[array.dtype], array)


def _columns(data: bytes) -> list[Array]:
    return [item.array() for item in msgspec.msgpack.decode(data, type=list[Column])]
