"""Work in steps, each kept when it is done, with an estimate of the time that is left."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.promise import kept
from loadtests.promise.kept import Made

Say = Callable[[str], None]


class Failed(Exception):
    """A step cannot be done; the message says why."""


@dataclass(frozen=True)
class Step:
    """`act(*arguments)` gives a result of type `kind`; `seconds` is about what that takes."""

    name: str
    seconds: float
    kind: Any
    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    files: tuple[Path, ...]  # that the result depends on, with all that they import

    @property
    def key(self) -> str:
        return kept.digest(f"{self.act.__module__}.{self.act.__qualname__}{self.arguments!r}", self.files)


@dataclass(frozen=True)
class Course:
    """The results of steps that could be done, and the seconds that they took; why others could not."""

    seconds: float
    results: dict[str, Any]
    failures: dict[str, str]


def run(steps: Sequence[Step], folder: Path, say: Say = lambda line: print(line, file=sys.stderr)) -> Course:
    """Do what is not kept in `folder`."""
    there = {step.name: kept.read(folder / step.key, step.kind) for step in steps}
    pace, seconds = Pace(step.seconds for step in steps if there[step.name] is None), 0.0
    results, failures = dict[str, Any](), dict[str, str]()
    for number, step in enumerate(steps, 1):
        made = there[step.name]
        try:
            done = made or _make(step)
        except Failed as error:
            failures[step.name] = str(error)
            pace.failed(step.seconds)
            say(f"[{number}/{len(steps)}] {step.name}: cannot be done: {error}")
            continue
        results[step.name], seconds = done.result, seconds + done.seconds
        if made is None:
            kept.write(folder / step.key, done)
            pace.took(step.seconds, done.seconds)
        how = "kept" if made else f"{done.seconds:.1f} s"
        say(f"[{number}/{len(steps)}] {step.name}: {how}; {pace.left}")
    return Course(seconds, results, failures)


def _make(step: Step) -> Made:
    began = time.monotonic()
    result = step.act(*step.arguments)
    return Made(time.monotonic() - began, result)


class Pace:
    """How long what is left takes, by what was done so far took.

    >>> pace = Pace([10.0, 30.0, 60.0])
    >>> pace.took(10.0, 20.0)
    >>> pace.left
    'about 3 min left'
    """

    def __init__(self, planned: Iterable[float]) -> None:
        self._left, self._planned, self._took = sum(planned), 0.0, 0.0

    def took(self, planned: float, seconds: float) -> None:
        self._left, self._planned, self._took = self._left - planned, self._planned + planned, self._took + seconds

    def failed(self, planned: float) -> None:
        self._left -= planned

    @property
    def left(self) -> str:
        seconds = self._left * (self._took / self._planned if self._planned else 1.0)
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"
