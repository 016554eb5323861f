"""SplitMix64: numbers to hashes without pattern, for samples that what a client sends has no part in."""

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # what its state goes on by


def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits (Steele, Lea & Flood 2014, *Fast splittable pseudorandom number generators*).

    >>> [hex(hashed) for hashed in mixed(np.array([1, 2], np.uint64) * GOLDEN).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
