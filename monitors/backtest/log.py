"""The alarms of a backtest: when they were raised and cleared, and why."""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from monitors.alarm import Severity
from monitors.backtest import words
from monitors.backtest.document import Alarm, Kind, Mark, Shift
from monitors.backtest.replay import Replay, Verdicts
from monitors.budget import ALL, COVERAGE, QUALITY, RISK
from monitors.checkup import CALIBRATION
from monitors.drift.joint import JOINT
from monitors.explain.explaining import explain, explain_version
from monitors.explain.explanation import Explanation
from monitors.explain.rise import explain_rise
from monitors.reference import PREDICTION

SHOWN = 3  # features beside an alarm that is of none
_KINDS: dict[str, Kind] = {
    RISK: "risk", ALL: "drift", JOINT: "drift", PREDICTION: "prediction", QUALITY: "quality",
    CALIBRATION: "calibration", COVERAGE: "coverage",
}  # fmt: skip


class Verdict(Protocol):
    @property
    def log_e(self) -> float: ...

    @property
    def threshold(self) -> float: ...

    @property
    def alarm(self) -> bool: ...

    @property
    def since(self) -> float | None: ...

    @property
    def blocks(self) -> int: ...

    @property
    def severity(self) -> Severity: ...


def by_subject(said: Verdicts) -> dict[str, Verdict]:
    """All verdicts that may raise an alarm."""
    checks = said.checks
    others: dict[str, Verdict] = {
        QUALITY: checks.quality, CALIBRATION: checks.calibration, COVERAGE: checks.coverage,
    }  # fmt: skip
    return {RISK: said.risk, **others, **said.drift}


@dataclass
class Log:
    """Alarms as they are raised and cleared."""

    timed: bool  # whether blocks are of time
    alarms: list[Alarm] = field(default_factory=list)
    on: dict[str, int] = field(default_factory=dict)  # subject -> place in `alarms`

    def look(self, replay: Replay, said: Verdicts, end: Mark) -> None:
        """After a block that ended at `end`."""
        for subject, verdict in by_subject(said).items():
            if verdict.alarm and subject not in self.on:
                self.on[subject] = len(self.alarms)
                self.alarms.append(_alarm(replay, said, subject, verdict, self.timed))
            elif not verdict.alarm and subject in self.on:
                place = self.on.pop(subject)
                self.alarms[place] = msgspec.structs.replace(self.alarms[place], until=end)


def _alarm(replay: Replay, said: Verdicts, subject: str, verdict: Verdict, timed: bool) -> Alarm:
    assert verdict.since is not None  # it is on
    laws, past = replay.profile.features, replay.monitor.past()
    of_one = subject in laws
    found = [explain(subject, laws[subject], past[subject])] if of_one else explain_version(laws, past)
    shifts = tuple(_shift(one, timed) for one in found[:SHOWN])
    of_all = f"{_of_all(replay, said, subject, timed)} {words.at_once(found)}"
    return Alarm(
        time=replay.ruler.ended(verdict.since),
        until=None,
        kind=_KINDS.get(subject, "feature"),
        severity=verdict.severity,
        subject=subject,
        explanation=shifts[0].explanation if of_one else of_all,
        shifts=shifts,
    )


def _of_all(replay: Replay, said: Verdicts, subject: str, timed: bool) -> str:
    risk, checks = replay.profile.risk, said.checks
    if subject == RISK and risk is not None:
        return f"{words.harm(said.risk, risk, timed=timed)}{_carried(replay)}"
    if subject == QUALITY:
        return words.quality(checks.quality)
    if subject == CALIBRATION:
        return words.calibration(checks.calibration)
    if subject == COVERAGE:
        return words.coverage(checks.coverage)
    return words.JOINT if subject == JOINT else words.WHOLE


def _carried(replay: Replay) -> str:
    """Which cells carry the rise of the loss."""
    profile, past = replay.profile, replay.monitor.harm()
    rise = explain_rise(profile.losses, profile.features, past) if profile.losses and past else None
    return f" {rise.text}" if rise else ""


def _shift(found: Explanation, timed: bool) -> Shift:
    cells = [(cell.name, cell.reference, cell.now) for cell in found.cells]
    return Shift(found.feature, found.text if timed else words.moved(found), *map(tuple, zip(*cells, strict=True)))
