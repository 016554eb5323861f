"""Detectors made wrong on purpose: the promise must be seen to break, or its test could not fail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from loadtests.promise.nulls import Stream
from monitors.drift.e_detector import Bettor, Floats


class Peeking(Bettor):
    """Learns from a block before it bets on it."""

    def update(self, counts: NDArray[np.int64], design_effect: Floats | float = 1.0) -> Floats:
        super().update(counts, design_effect)
        learnt = self.q
        won = super().update(counts, design_effect)
        self.q = learnt
        return won


class Intolerant(Bettor):
    """Its bets are not divided."""

    def log_e(self) -> Floats:
        self.tolerance = np.zeros_like(self.tolerance)
        return super().log_e()


def untempered(streams: Sequence[Stream]) -> list[Stream]:
    return [replace(s, law=msgspec.structs.replace(s.law, design_effect=1.0)) for s in streams]


def trusting(streams: Sequence[Stream]) -> list[Stream]:
    """The reference is taken for the truth."""
    return [replace(s, tolerance=s.tolerance - s.law.error) for s in streams]


def same(streams: Sequence[Stream]) -> list[Stream]:
    return list(streams)


@dataclass(frozen=True)
class Mutant:
    """What is wrong, and the law on which it must be caught."""

    wrong: str
    null: str
    bettor: type[Bettor] = Bettor
    streams: Callable[[Sequence[Stream]], list[Stream]] = same


MUTANTS = {
    "undivided": Mutant("bets are not divided by the tolerance", "boundary", bettor=Intolerant),
    "peeking": Mutant("bets have seen the block", "small blocks", bettor=Peeking),
    "untempered": Mutant("no tempering on clusters", "clusters", streams=untempered),
    "trusting": Mutant("the reference is taken for the truth", "reference of 1,000", streams=trusting),
}
