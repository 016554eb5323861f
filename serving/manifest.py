"""What a published version is: identity, signature, features, prediction, lineage. Immutable."""

import math
from hashlib import sha256
from typing import Literal

import msgspec

from serving.errors import BadRequest
from serving.protocol import Signature
from serving.speed import Timed

Task = Literal["classification", "regression"]
Kind = Literal["numeric", "categorical"]

MODEL_FILE, REFERENCE_FILE = "model.onnx", "reference.json"


class Prediction(msgspec.Struct, frozen=True):
    """The output that is the prediction; of a matrix [N, k], which column. None: the output is a vector."""

    output: str
    column: int | None = None


class Feature(msgspec.Struct, frozen=True):
    """A named number or category of a row: an input tensor, or one column of an input [N, k]."""

    name: str
    input: str
    column: int | None = None
    kind: Kind = "numeric"


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What divides rows into groups with metrics of their own: a feature by its `values`, all others together, or by
    the inner `edges` of bins, increasing."""

    feature: str
    values: tuple[str | float, ...] = ()
    edges: tuple[float, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document whose digest names a version. Optional parts that are missing are not monitored.

    `files` maps a file's name to the SHA-256 of its bytes. `rows_independent` was measured at publish:
    rows run apart and together gave the same bits, or differed by no more than `batch_tolerance` x max(1, |value|),
    so requests may share a run. `batch_difference` is the largest that was seen, in the same unit; None: not a bit,
    or nothing that is a number.
    """

    model: str
    version: str
    files: dict[str, str]
    signature: Signature
    rows_independent: bool
    task: Task | None = None
    prediction: Prediction | None = None
    features: tuple[Feature, ...] = ()
    label: str | None = None  # the column of the training data that later labels stand for
    lineage: dict[str, str] = {}
    batch_tolerance: float = 0.0  # 0: to the bit
    batch_difference: float | None = None
    batch_times: tuple[Timed, ...] = ()  # of runs on one thread of a CPU, by their rows, where these may share a run
    threshold: float = 0.5  # a probability of at least this predicts 1, for the metrics
    quantile: float = 0.5  # of the label, that a regression predicts, for its pinball loss
    segments: tuple[Segment, ...] = ()
    kpi_range: tuple[float, float] | None = None  # of a number sent with the label, else of the label; its mean is told

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted names and digests of the version's files, in hexadecimal."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return sha256(listing.encode()).hexdigest()

    def with_reference(self, digest: str) -> "Manifest":
        """The version under another reference, the profile with this digest."""
        return msgspec.structs.replace(self, files=self.files | {REFERENCE_FILE: digest})

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")


def decode(data: bytes) -> Manifest:
    return msgspec.json.decode(data, type=Manifest)


def parse_prediction(text: str) -> Prediction:
    """``"probabilities:1"`` -> column 1 of the output `probabilities`; ``"score"`` -> a vector."""
    output, colon, column = text.rpartition(":")
    if not colon:
        return Prediction(text)
    if not output or not column.isdecimal():
        raise BadRequest(f"--prediction takes OUTPUT or OUTPUT:COLUMN, got {text!r}")
    return Prediction(output, int(column))


def check_tolerance(value: float) -> float:
    """The value itself. Raises BadRequest for what is no tolerance."""
    if not 0 <= value < math.inf:
        raise BadRequest(f"--batch-tolerance must be a finite number, 0 or more, got {value:g}")
    return value
