"""Statistics and detectors of drift, one a file. Effect sizes stand beside the evidence, from the same counts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monitors.drift.ks import ks
from monitors.drift.psi import psi

Effect = Callable[[NDArray[np.int64], NDArray[np.int64], float, float], float]

EFFECTS: dict[str, Effect] = {"psi": psi, "ks": ks}
