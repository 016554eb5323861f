"""Statistics and detectors of drift, one a file. Effect sizes stand beside the evidence, from the same counts."""

from collections.abc import Callable

from monitors.drift.chi2 import chi2
from monitors.drift.hellinger import hellinger
from monitors.drift.js import js
from monitors.drift.ks import ks
from monitors.drift.psi import psi
from monitors.drift.table import CONFIDENCE, Estimate, Table
from monitors.drift.tv import tv
from monitors.drift.wasserstein import wasserstein

Effect = Callable[[Table, float], Estimate]  # of tables, at a confidence

EFFECTS: dict[str, Effect] = {
    "psi": psi, "ks": ks, "js": js, "wasserstein": wasserstein, "hellinger": hellinger, "tv": tv, "chi2": chi2,
}  # fmt: skip

__all__ = ["CONFIDENCE", "EFFECTS", "Effect", "Estimate", "Table"]
