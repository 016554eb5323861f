"""The alarm budget: how often somebody may be called for nothing, and which alarms share it.

Alarms that page or open a ticket share it: N of them in the whole deployment, each with a mean of at least N A blocks
to a false alarm, where A blocks is the time in which one call may be false. An alarm that only explains (drift of a
single feature) takes no part in it and has the same threshold.
"""

import math
from collections.abc import Callable, Collection, Iterator

import msgspec

from monitors.alarm import Severity
from monitors.journal import State
from monitors.reference import PREDICTION, Profile
from serving.config import Monitors

ALL = "_all"  # the detector over all features of a version
RISK = "_risk"  # harm
QUALITY, COVERAGE = "_quality", "_coverage"  # of a version's data; of its labels
SEVERITIES: dict[str, Severity] = {  # of any other alarm: info
    RISK: "page", ALL: "ticket", PREDICTION: "ticket", QUALITY: "ticket", COVERAGE: "ticket",
}  # fmt: skip
PERIOD_S = 90 * 86400.0  # the budget is so many false calls in it
MIN_RUN_BLOCKS = 20.0  # a promise of fewer blocks to a false alarm would alarm on next to nothing

Name = tuple[str, str]  # model, version
Pagers = Callable[[float], int]  # N, at the end of a block, seconds since 1970 UTC


def severity(alarm: str, slow: Collection[str] = ()) -> Severity:
    """Of an alarm, or of a feature's. Drift of features in `slow` calls nobody, nor do `_all` and `_quality` then.

    >>> severity("_risk"), severity("_all"), severity("age"), severity("_all", ["age"])
    ('page', 'ticket', 'info', 'info')
    """
    return "info" if alarm in slow or (alarm in (ALL, QUALITY) and slow) else SEVERITIES.get(alarm, "info")


def slow(profile: Profile, settings: Monitors) -> dict[str, float]:
    """Features whose drift calls nobody, since blocks are shorter than their correlation time, in seconds.

    What one block shows, the next then shows too, drift or not, and the promise does not hold.
    """
    return {} if settings.allow_correlated_blocks else profile.correlated(settings.block_s)


def pagers(profile: Profile | None, settings: Monitors, labels: bool) -> int:
    """How many alarms of a version share the budget: those that call somebody and are judged.

    `labels`: it takes labels, whose flow is watched whatever the profile. Quality is judged of unfit features, too.
    """
    if profile is None:
        return int(labels)
    fit = [name for name, law in profile.features.items() if not law.unfit]
    risk = profile.risk is not None and profile.risk.bound + settings.risk_tolerance < 1
    alarms = [QUALITY] * bool(profile.features) + [ALL] * bool(fit) + [PREDICTION] * (PREDICTION in fit)
    return risk + labels + sum(severity(alarm, slow(profile, settings)) != "info" for alarm in alarms)


def run_blocks(pagers: int, settings: Monitors) -> float:
    """A_i = N A: the mean number of blocks to a false alarm of one of N alarms is at least this.

    >>> run_blocks(3, Monitors(block_s=3600))
    6480.0
    """
    return max(MIN_RUN_BLOCKS, pagers * PERIOD_S / settings.block_s / settings.false_pages_per_90_days)


class Term(msgspec.Struct, array_like=True):
    """A version's part in the budget: from its first slot with rows until 90 days after its last."""

    first: int  # slot
    last: int
    pagers: int


class Change(msgspec.Struct, frozen=True):
    """The budget was divided anew, since a version joined or left."""

    at: float  # seconds since 1970 UTC
    model: str
    version: str
    joined: bool
    pagers: int  # N, from then on


class Division:
    """Who shares the budget when: a function of the counted rows alone, so that thresholds are the same for any nodes.

    >>> division = Division(Monitors(slot_s=60))
    >>> division.note(("flights", "1"), 0, pagers=3)
    >>> division.note(("flights", "2"), 10, pagers=2)
    >>> division.at(600), division.at(660), [change.pagers for change in division.changes(660)]
    (3, 5, [3, 5])
    """

    def __init__(self, settings: Monitors) -> None:
        self._slot_s = settings.slot_s
        self._terms: dict[Name, list[Term]] = {}  # of a version in their order; the newest that began holds
        self._changed: set[Name] = set()

    def note(self, name: Name, slot: int, pagers: int) -> None:
        """The version has rows in this slot. Slots of a version come in order, and before blocks behind them end."""
        terms = self._terms.setdefault(name, [])
        self._changed.add(name)
        if terms and terms[-1].pagers == pagers and slot * self._slot_s <= self._end_s(terms[-1]):
            terms[-1].last = slot
        else:
            terms.append(Term(slot, slot, pagers))

    def at(self, end_s: float) -> int:
        """N for a block that ends then, at least 1."""
        return max(1, sum(self._of(terms, end_s) for terms in self._terms.values()))

    def changes(self, until_s: float) -> list[Change]:
        """In their order, up to `until_s`, after which nothing is known."""
        events = sorted(event for name in self._terms for event in self._events(name) if event[0] < until_s)
        return [Change(at, *name, joined, self.at(math.nextafter(at, math.inf))) for at, name, joined in events]

    def save(self, journal: State) -> None:
        """Write what changed since the last `save`."""
        journal.put("term", {name: msgspec.msgpack.encode(self._terms[name]) for name in self._changed})
        self._changed.clear()

    def load(self, journal: State) -> None:
        for (model, version), data in journal.all("term").items():
            self._terms[str(model), str(version)] = msgspec.msgpack.decode(data, type=list[Term])

    def _of(self, terms: list[Term], at_s: float) -> int:
        begun = [term for term in terms if term.first * self._slot_s < at_s]
        return begun[-1].pagers if begun and at_s <= self._end_s(begun[-1]) else 0

    def _events(self, name: Name) -> Iterator[tuple[float, Name, bool]]:
        terms = self._terms[name]
        for term, after in zip(terms, [*terms[1:], None], strict=True):
            yield term.first * self._slot_s, name, True
            if after is None or after.first * self._slot_s > self._end_s(term):
                yield self._end_s(term), name, False

    def _end_s(self, term: Term) -> float:
        return (term.last + 1) * self._slot_s + PERIOD_S
