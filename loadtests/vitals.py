"""Memory, descriptors, threads of processes over time, and whether they grow. Linux only: /proc."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.polynomial import Polynomial

SPAN_S = 600.0  # growth is told per ten minutes
MOST_GROWTH_BYTES = 2**20  # of memory in SPAN_S
MOST_MORE = 2  # descriptors or threads that may be left over


@dataclass(frozen=True)
class Sample:
    """One process at one moment. `own_bytes` is its resident memory without the pages of files that it maps."""

    at_s: float
    own_bytes: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """Of one process."""

    name: str
    first_bytes: float
    last_bytes: float
    bytes_per_span: float  # by least squares
    more_descriptors: int
    more_threads: int

    @property
    def broken(self) -> str:
        """Which bound does not hold; empty when all do."""
        said = []
        if self.bytes_per_span > MOST_GROWTH_BYTES:
            said.append("memory")
        if self.more_descriptors > MOST_MORE:
            said.append("descriptors")
        if self.more_threads > MOST_MORE:
            said.append("threads")
        return ", ".join(said)


def read(process: int, now_s: float) -> Sample:
    """Raises OSError when it has ended."""
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    if "RssAnon" not in status:  # it has given its memory back, and waits to be noticed
        raise ProcessLookupError(f"process {process} has ended")
    own_bytes = int(status["RssAnon"].split()[0]) * 1024
    return Sample(now_s, own_bytes, len(os.listdir(folder / "fd")), int(status["Threads"]))


def growth(name: str, samples: Sequence[Sample], start_s: float) -> Growth:
    """Of memory from `start_s` on, for which there must be 4 samples; of the rest from the first sample to the last.

    The first and the last are taken without load: connections that come and go with it are no leak.

    >>> leak = [Sample(float(s), 1000 * s, 5, 3) for s in range(60)]
    >>> round(growth("a", leak, 10.0).bytes_per_span), growth("a", leak, 10.0).more_threads
    (600000, 0)
    """
    begin, end = samples[0], samples[-1]
    samples = [one for one in samples if one.at_s >= start_s]
    line = Polynomial.fit([one.at_s for one in samples], [one.own_bytes for one in samples], 1).convert()
    quarter = len(samples) // 4
    first, last = samples[:quarter], samples[-quarter:]
    return Growth(
        name,
        float(np.median([one.own_bytes for one in first])),
        float(np.median([one.own_bytes for one in last])),
        float(line.coef[1]) * SPAN_S if len(line.coef) > 1 else 0.0,
        end.descriptors - begin.descriptors,
        end.threads - begin.threads,
    )


@dataclass
class Vitals:
    """Samples of processes by name, every `period_s` while `running` and at its ends; `ended` are those that died."""

    processes: Mapping[str, int]
    period_s: float = 1.0
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, clock: Callable[[], float] = time.monotonic) -> Iterator["Vitals"]:
        stop = threading.Event()
        self._look(clock())
        thread = threading.Thread(target=self._watch, args=(stop, clock), name="vitals")
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self._look(clock())

    def after(self, start_s: float) -> list[Growth]:
        """How each process grew from `start_s` on."""
        enough = [name for name, found in self.samples.items() if sum(one.at_s >= start_s for one in found) >= 4]
        return [growth(name, self.samples[name], start_s) for name in enough]

    def _watch(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        while not stop.wait(self.period_s):
            self._look(clock())

    def _look(self, now_s: float) -> None:
        for name, process in self.processes.items():
            try:
                self.samples.setdefault(name, []).append(read(process, now_s))
            except OSError:
                if name not in self.ended:
                    self.ended.append(name)
