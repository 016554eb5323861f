"""How far outputs for rows run together are from those for the same rows run alone, and what is said of it. Pure."""

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from serving.manifest import Manifest
from serving.protocol import Array

_LITTLE = 1e-3  # up to it a difference looks like rounding; rows that depend on each other make larger ones


class Agreement(msgspec.Struct, frozen=True):
    """`difference` is the largest |together - alone| / max(1, |alone|) of floating-point values.

    It is infinite where shapes, the places of NaN, infinities, or values of another type differ, and may be 0 without
    the same bits: -0.0 is 0.0.
    """

    same_bits: bool
    difference: float

    def within(self, tolerance: float) -> bool:
        """Whether requests may share runs. Tolerance 0 asks for the same bits."""
        return self.same_bits or (tolerance > 0 and self.difference <= tolerance)

    @property
    def measured(self) -> float | None:
        """The difference; None when there is none, or none that is a number."""
        return self.difference if not self.same_bits and math.isfinite(self.difference) else None


SAME, APART = Agreement(True, 0.0), Agreement(False, math.inf)


def compare(together: Array, alone: Array) -> Agreement:
    """One output, rows along axis 0.

    >>> compare(np.array([3.0, np.nan]), np.array([2.0, np.nan]))
    Agreement(same_bits=False, difference=0.5)
    """
    if _bits(together) == _bits(alone):
        return SAME
    if together.shape != alone.shape or alone.dtype.kind != "f":
        return APART
    x, y = together.astype(np.float64), alone.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = np.abs(x - y) / np.maximum(1.0, np.abs(y))
    ratios = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, ratios)
    return Agreement(False, float(np.max(np.nan_to_num(ratios, nan=math.inf, posinf=math.inf))))


def worst(found: Iterable[Agreement]) -> Agreement:
    """What holds of all of them; of none, that nothing agrees."""
    every = list(found)
    if not every:
        return APART
    return Agreement(all(one.same_bits for one in every), max(one.difference for one in every))


def notes(manifest: Manifest) -> tuple[str, ...]:
    """One sentence for the publisher where rows run together and alone did not give the same bits."""
    found, allowed = manifest.batch_difference, f"(allowed {manifest.batch_tolerance:g})"
    if found is None:
        unseen = "requests run alone: it was not seen that rows run together give what they give alone"
        return () if manifest.rows_independent else (unseen,)
    if manifest.rows_independent:
        return (f"rows run together differ by at most {found:.2g} {allowed}: requests share runs",)
    hint = f"; --batch-tolerance {_roomy(found)} would let them share runs" if found <= _LITTLE else ""
    return (f"rows run together differ by up to {found:.2g} {allowed}: requests run alone{hint}",)


def _roomy(difference: float) -> str:
    """A power of ten with room above what was measured: other rows may differ by more than those that were seen.

    >>> _roomy(3.1e-07), _roomy(0.0)
    ('1e-05', '1e-07')
    """
    return f"{10.0 ** math.ceil(math.log10(max(difference, 1e-8)) + 1):.0e}"


def _bits(array: Array) -> tuple[tuple[int, ...], object]:
    return array.shape, array.ravel().tolist() if array.dtype == object else array.tobytes()
