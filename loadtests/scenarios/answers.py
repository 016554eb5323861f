"""Whether an answer is one: its status, its identity, its shape. Pure."""

from collections.abc import Mapping

import msgspec

from serving.demo import setup
from serving.errors import GaugewayError

ROUNDING = 1e-5  # of two float32 probabilities that add up to 1


class WrongAnswer(GaugewayError):
    """An answer came, and it is not what was asked for."""


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class _Body(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]


_BODY = msgspec.json.Decoder(_Body)


class Answer(msgspec.Struct, frozen=True):
    """Which version answered, why that one, and the probability that the flight is late."""

    version: str
    route: str
    late: float


def check(status: int, headers: Mapping[str, str], body: bytes, model: str, request_id: str) -> Answer:
    """Of a request for one row. Raises WrongAnswer with the first thing that is wrong."""
    if status != 200:
        raise WrongAnswer(f"status {status}: {body[:200].decode(errors='replace')}")
    if (got := headers.get("x-request-id")) != request_id:
        raise WrongAnswer(f"x-request-id is {got!r}, sent was {request_id!r}")
    try:
        found = _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongAnswer(f"the body is no answer: {error}") from None
    if found.model_name != model:
        raise WrongAnswer(f"the answer is of model {found.model_name!r}, asked was {model!r}")
    if found.model_version != (version := headers.get("x-gaugeway-version")):
        raise WrongAnswer(f"the body names version {found.model_version!r}, the header {version!r}")
    return Answer(found.model_version, headers.get("x-gaugeway-route") or "", _late(found.outputs))


def is_shed(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the gateway protected itself and says when to come again."""
    return status in (429, 503) and headers.get("retry-after") is not None


class Stickiness:
    """Which version each key got; a key whose route was sticky never gets another."""

    def __init__(self) -> None:
        self.version_of: dict[str, str] = {}

    def see(self, key: str, answer: Answer, required: bool) -> None:
        """Raises WrongAnswer when a key moved, or when it is `required` to be sticky and was not."""
        if answer.route != "sticky":
            if required:
                raise WrongAnswer(f"key {key!r} was routed by {answer.route!r}; is the model's `sticky` set?")
            return
        before = self.version_of.setdefault(key, answer.version)
        if before != answer.version:
            raise WrongAnswer(f"key {key!r} moved from version {before!r} to {answer.version!r}")

    def shares(self) -> dict[str, int]:
        """Number of keys by version."""
        found = sorted(self.version_of.values())
        return {version: found.count(version) for version in dict.fromkeys(found)}


def _late(outputs: list[_Output]) -> float:
    shapes = [(one.name, one.datatype, one.shape, len(one.data)) for one in outputs]
    if shapes != [(setup.OUTPUT, "FP32", [1, 2], 2)]:
        raise WrongAnswer(f"expected {setup.OUTPUT!r} FP32 [1, 2], got {shapes}")
    both = outputs[0].data
    if not (0 <= min(both) and max(both) <= 1 and abs(sum(both) - 1) < ROUNDING):
        raise WrongAnswer(f"{both} are no probabilities")
    return both[setup.COLUMN]
