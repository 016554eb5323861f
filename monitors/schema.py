"""Whether a reference profile is of the schema that its version declares."""

from collections.abc import Iterator

from monitors.profile import PREDICTION, Profile
from serving.manifest import Manifest

_FLOATS = ("FP16", "FP32", "BF16")  # counted as float32; other numbers as float64


def mismatches(profile: Profile, manifest: Manifest) -> tuple[str, ...]:
    """Sentences that say where they differ. Then rows are not counted, or fall into other cells than the reference's,
    so that a silent monitor means nothing.
    """
    types = dict(fed(manifest))
    unknown = [name for name in profile.features if name not in types]
    said = [f"the reference is of another schema: the version does not declare {', '.join(unknown)}"] if unknown else []
    for name, law in profile.features.items():
        if name in types and types[name] != law.dtype:
            said.append(
                f"the reference is of another schema: {name} is {law.dtype} there, in the version {types[name]}"
            )
    return tuple(said)


def fed(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each feature, and the prediction, with the type in which it is counted."""
    inputs = {tensor.name: tensor.datatype for tensor in manifest.signature.inputs}
    outputs = {tensor.name: tensor.datatype for tensor in manifest.signature.outputs}
    for feature in manifest.features:
        yield feature.name, _counted(inputs.get(feature.input, ""))
    if manifest.prediction is not None:
        yield PREDICTION, _counted(outputs.get(manifest.prediction.output, ""))


def _counted(datatype: str) -> str:
    if datatype == "BYTES":
        return "text"
    return "float32" if datatype in _FLOATS else "float64"
