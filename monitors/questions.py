"""What the HTTP side asks of the thread that counts: a bounded queue of questions, each with its answer to come."""

import asyncio
import queue
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec

from monitors.labels import Label, Place
from monitors.report import Report
from serving.errors import NotReady

MAX_QUESTIONS = 1024  # waiting; more is 503
ANSWER_S = 8.0  # after which the thread that counts is taken to be stuck


class Refused(msgspec.Struct, frozen=True):
    """A label that was not taken: its place in the request, and why."""

    index: int
    reason: str


class Answer(msgspec.Struct, frozen=True):
    """What became of the labels of one request; `joined`, `parked`, `unknown` and `refused` add up to what was sent.

    Of these `doubled` said what was known, `conflicting` contradicted it, `late` came after their seal.
    """

    joined: int
    parked: int
    unknown: int
    refused: list[Refused]
    doubled: int = 0
    conflicting: int = 0
    late: int = 0


@dataclass
class Labelling:
    """Labels to be joined; `label.time` is NaN where none was sent."""

    labels: list[tuple[int, Label]]
    refused: list[Refused] = field(default_factory=list)
    answer: "Future[Answer]" = field(default_factory=Future)


@dataclass
class Holding:
    """Of labels: the event time of the prediction that waits for each here, NaN where none does."""

    labels: Sequence[Label]
    answer: "Future[list[float]]" = field(default_factory=Future)


@dataclass
class Straying:
    """Which labels wait here for a prediction, the next `n` behind a place."""

    after: Place
    n: int
    answer: "Future[list[Label]]" = field(default_factory=Future)


@dataclass
class Leaving:
    """Labels that met their prediction at another node: they wait here no longer."""

    labels: Sequence[Label]
    unusable: Sequence[Label] = ()  # there: they give way to what they replaced
    answer: "Future[None]" = field(default_factory=Future)


@dataclass
class Asking:
    """For a report."""

    answer: "Future[Report]" = field(default_factory=Future)


Question = Labelling | Holding | Straying | Leaving | Asking
Questions = queue.Queue[Question]


async def ask(questions: Questions, question: Question) -> Any:
    """The answer. Raises NotReady when too many wait, or when it does not come."""
    try:
        questions.put_nowait(question)
        return await asyncio.wait_for(asyncio.wrap_future(question.answer), ANSWER_S)
    except queue.Full:
        raise NotReady(f"{MAX_QUESTIONS} requests wait already") from None
    except TimeoutError:
        raise NotReady(f"the monitors did not answer within {ANSWER_S:g} s") from None
