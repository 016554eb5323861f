"""A backtest: blocks of the past in, what the monitor would have said out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Severity
from monitors.backtest import words
from monitors.backtest.document import Alarm, Allowed, Block, Document, Evidence, Feature, File, Kind, Mark, Risk, Shift
from monitors.backtest.past import Past, Ruler
from monitors.backtest.replay import Folded, Replay, Verdicts
from monitors.budget import ALL, COVERAGE, QUALITY, RISK
from monitors.checkup import CALIBRATION
from monitors.drift.effects import Sizes
from monitors.drift.joint import JOINT
from monitors.drift.watch import DriftVerdict
from monitors.explain.explaining import explain_past, explain_version
from monitors.explain.explanation import Explanation
from monitors.loss import upper_bound_of
from monitors.reference import PREDICTION, Marginal, Profile
from monitors.risk import RiskVerdict
from monitors.slot import LOSS_UNIT
from serving.config import Monitors
from serving.errors import BadRequest

MISS = 0.05  # probability that a block's risk lies outside its interval
SHOWN = 3  # features beside an alarm that is of none
SETTINGS = (
    "block_s", "block_rows", "slot_s", "label_horizon_s", "min_coverage", "tolerance", "risk_tolerance",
    "false_pages_per_90_days", "unit", "quiet_blocks", "allow_correlated_blocks",
)  # fmt: skip
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
    def severity(self) -> Severity: ...


def by_subject(said: Verdicts) -> dict[str, Verdict]:
    """All verdicts that may raise an alarm."""
    checks = said.checks
    others = {QUALITY: checks.quality, CALIBRATION: checks.calibration, COVERAGE: checks.coverage}
    return {RISK: said.risk, **others, **said.drift}


def run(
    profile: Profile, past: Past, ruler: Ruler, settings: Monitors, *, reference: File, data: File, gaugeway: str
) -> Document:
    """Judge `past` as if it came live. Raises BadRequest where no block has enough rows."""
    replay, log = Replay(profile, ruler, settings), _Log(ruler)
    blocks = []
    for folded in replay.blocks(past.blocks):
        blocks.append(_block(profile, folded, ruler))
        if folded.verdicts is not None:
            log.look(replay, folded.verdicts, blocks[-1].end)
    if not blocks or not blocks[0].judged:
        raise BadRequest(
            f"{data.name} has {past.rows} rows, too few for a block: {settings.block_rows} are needed (--block-rows)"
        )
    return Document(
        gaugeway=gaugeway,
        reference=reference,
        data=data,
        by="time" if ruler.rows is None else "rows",
        settings={name: getattr(settings, name) for name in SETTINGS},
        promise=replay.monitor.promise(),
        notes=(*profile.notes, *_notes(past)),
        risk=_allowed(replay.monitor.risk(), profile),
        reference_quality={name: _quality(law, np.array(law.counts)) for name, law in profile.features.items()},
        blocks=tuple(blocks),
        alarms=tuple(log.alarms),
    )


@dataclass
class _Log:
    """Alarms as they are raised and cleared."""

    ruler: Ruler
    alarms: list[Alarm] = field(default_factory=list)
    on: dict[str, int] = field(default_factory=dict)  # subject -> place in `alarms`

    def look(self, replay: Replay, said: Verdicts, end: Mark) -> None:
        for subject, verdict in by_subject(said).items():
            if verdict.alarm and subject not in self.on:
                self.on[subject] = len(self.alarms)
                self.alarms.append(_alarm(replay, said, subject, verdict.severity, end, self.ruler.rows is None))
            elif not verdict.alarm and subject in self.on:
                place = self.on.pop(subject)
                self.alarms[place] = msgspec.structs.replace(self.alarms[place], until=end)


def _alarm(replay: Replay, said: Verdicts, subject: str, severity: Severity, end: Mark, timed: bool) -> Alarm:
    laws, past = replay.profile.features, replay.monitor.past()
    of_one = subject in laws
    found = [explain_past(subject, laws[subject], past[subject])] if of_one else explain_version(laws, past)
    shifts = tuple(_shift(one, timed) for one in found[:SHOWN])
    return Alarm(
        time=end,
        until=None,
        kind=_KINDS.get(subject, "feature"),
        severity=severity,
        subject=subject,
        explanation=shifts[0].explanation if of_one else f"{_of_all(replay, said, subject)} {words.at_once(found)}",
        shifts=shifts,
    )


def _of_all(replay: Replay, said: Verdicts, subject: str) -> str:
    risk, checks = replay.profile.risk, said.checks
    if subject == RISK and risk is not None:
        return words.harm(said.risk, risk.task, replay.mean_loss())
    if subject == QUALITY:
        return words.quality(checks.quality)
    if subject == CALIBRATION:
        return words.calibration(checks.calibration)
    if subject == COVERAGE:
        return words.coverage(checks.coverage)
    return words.JOINT if subject == JOINT else words.WHOLE


def _shift(found: Explanation, timed: bool) -> Shift:
    cells = [(cell.name, cell.reference, cell.now) for cell in found.cells]
    return Shift(found.feature, found.text if timed else words.moved(found), *map(tuple, zip(*cells, strict=True)))


def _block(profile: Profile, folded: Folded, ruler: Ruler) -> Block:
    start, end, rows = ruler.mark(folded.first), ruler.mark(folded.last + 1), folded.sums.counts.rows
    if folded.verdicts is None:
        return Block(start=start, end=end, rows=rows, judged=False)
    said = folded.verdicts
    features = {name: _feature(said.drift[name], sizes) for name, sizes in folded.sizes.items()}
    return Block(
        start=start,
        end=end,
        rows=rows,
        judged=True,
        prediction=features.pop(PREDICTION, None),
        features=features,
        risk=_risk(said.risk, folded),
        others={
            subject: Evidence(log_e=verdict.log_e, threshold=verdict.threshold, alarm=verdict.alarm)
            for subject, verdict in by_subject(said).items()
            if subject != RISK and subject not in profile.features
        },
        quality={name: _quality(profile.features[name], cells) for name, cells in folded.sums.counts.cells.items()},
    )


def _quality(law: Marginal, cells: NDArray[np.int64]) -> dict[str, float]:
    """Shares of the rows, 0..1, in the cells that hold no value as the reference knows them."""
    below, *_, above, missing = (cells / max(1, cells.sum())).tolist()
    if law.kind == "numeric":
        return {"missing": missing, "below": below, "above": above}
    return {"missing": missing, "unseen": above}


def _feature(verdict: DriftVerdict, sizes: Sizes) -> Feature:
    return Feature(
        log_e=verdict.log_e,
        threshold=verdict.threshold,
        alarm=verdict.alarm,
        effects=sizes.values,
        intervals=sizes.intervals,
    )


def _risk(verdict: RiskVerdict, folded: Folded) -> Risk | None:
    labels = folded.sums.labels
    if not labels.predictions or verdict.state == "unfit":
        return None
    n, mean = labels.labelled, labels.mean
    variance = max(0.0, folded.sums.squares * LOSS_UNIT - n * mean**2) / max(1, n - 1)
    return Risk(
        mean=mean if n else None,
        lower=1 - upper_bound_of(n, 1 - mean, variance, MISS / 2),
        upper=upper_bound_of(n, mean, variance, MISS / 2),
        log_e=verdict.log_e,
        threshold=verdict.threshold,
        alarm=verdict.alarm,
        n=n,
        coverage=labels.coverage,
        state=verdict.state,
    )


def _allowed(verdict: RiskVerdict, profile: Profile) -> Allowed | None:
    risk = profile.risk
    return Allowed(risk.task, risk.mean, verdict.bound, risk.n) if risk and verdict.state != "unfit" else None


def _notes(past: Past) -> Iterator[str]:
    late = sum(sums.late for sums in past.blocks.values())
    if late:
        yield f"{late} labels came after their block was sealed and are in no evidence (monitors.label_horizon_s)"
