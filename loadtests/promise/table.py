"""False alarms of every null over references of every size, beside what the promise allows; and the mutants."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from loadtests.promise.mutants import MUTANTS
from loadtests.promise.nulls import NULLS, Null, Stream, alarms

RUNS = (20.0, 200.0, 2_000.0)  # A, in blocks
REFERENCES = (1_000, 10_000, 100_000)  # rows
Caught = tuple[str, str, int, int]  # what is wrong, on which null, alarms, their limit
LIMIT = 0.999  # the count of alarms exceeds its limit with at most 1 - LIMIT


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
        return all(found <= limit for found, limit in zip(self.alarms, self.limits, strict=True))


def limit(blocks: int, run_blocks: float) -> int:
    """The promise allows blocks / A alarms on average."""
    return int(stats.poisson.ppf(LIMIT, blocks / run_blocks))


def promise(streams: int, blocks: int) -> Iterator[Row]:
    """Every null with every reference, so many streams of so many blocks each."""
    rng = np.random.default_rng(20131)
    nulls = {name: null for name, null in NULLS.items() if not name.startswith("reference")}
    for name, null in nulls.items():
        for rows in REFERENCES:
            found = _fit(replace(null, reference_rows=rows), rng, streams, blocks)
            judged = len(found) * blocks
            yield Row(
                name,
                rows,
                len(found),
                blocks,
                tuple(alarms(found, run) for run in RUNS),
                tuple(limit(judged, run) for run in RUNS),
            )


def mutants(streams: int, blocks: int) -> Iterator[Caught]:
    """Each at the smallest A."""
    rng = np.random.default_rng(20131)
    for mutant in MUTANTS.values():
        found = mutant.streams([NULLS[mutant.null].stream(rng, blocks) for _ in range(streams)])
        yield mutant.wrong, mutant.null, alarms(found, RUNS[0], mutant.bettor), limit(streams * blocks, RUNS[0])


def _fit(null: Null, rng: np.random.Generator, streams: int, blocks: int) -> list[Stream]:
    made = (null.stream(rng, blocks) for _ in range(streams))
    return [stream for stream in made if not stream.law.unfit]
