"""False alarms of every null over references of every size, beside what the promise allows; and the mutants."""

from dataclasses import dataclass, replace

import numpy as np

from loadtests.promise.mutants import MUTANTS
from loadtests.promise.nulls import NULLS, Null, Stream, alarms, limit

RUNS = (20.0, 200.0, 2_000.0)  # A, in blocks
REFERENCES = (1_000, 10_000, 100_000)  # rows
NAMES = tuple(name for name in NULLS if not name.startswith("reference"))  # those that go with each of them
SEED = 20131


@dataclass(frozen=True)
class Row:
    """Of one null and reference: alarms and their limit for each A of `RUNS`. No streams: all references are unfit."""

    null: str
    reference_rows: int
    streams: int
    blocks: int
    alarms: tuple[int, ...]
    limits: tuple[int, ...]

    @property
    def kept(self) -> bool:
        return all(found <= most for found, most in zip(self.alarms, self.limits, strict=True))


@dataclass(frozen=True)
class Caught:
    """A mutant, on which null, with its alarms at the smallest A and their limit."""

    wrong: str
    null: str
    alarms: int
    limit: int


def row(name: str, reference_rows: int, streams: int, blocks: int) -> Row:
    """So many streams of so many blocks each; streams whose reference is unfit are left out."""
    rng = np.random.default_rng([SEED, NAMES.index(name), reference_rows])
    found = _fit(replace(NULLS[name], reference_rows=reference_rows), rng, streams, blocks)
    judged = len(found) * blocks
    return Row(
        name,
        reference_rows,
        len(found),
        blocks,
        tuple(alarms(found, run) for run in RUNS),
        tuple(limit(judged, run) for run in RUNS),
    )


def caught(name: str, streams: int, blocks: int) -> Caught:
    """A mutant of `MUTANTS` at the smallest A."""
    mutant, rng = MUTANTS[name], np.random.default_rng(SEED)
    found = mutant.streams([NULLS[mutant.null].stream(rng, blocks) for _ in range(streams)])
    return Caught(mutant.wrong, mutant.null, alarms(found, RUNS[0], mutant.bettor), limit(streams * blocks, RUNS[0]))


def _fit(null: Null, rng: np.random.Generator, streams: int, blocks: int) -> list[Stream]:
    made = (null.stream(rng, blocks) for _ in range(streams))
    return [stream for stream in made if not stream.law.unfit]
