"""A backtest: blocks of the past in, what the monitor would have said out."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monitors.backtest.document import Allowed, Block, Document, Evidence, Feature, File, Risk
from monitors.backtest.log import Log, by_subject
from monitors.backtest.past import Past, Ruler
from monitors.backtest.replay import Folded, Replay, Verdicts
from monitors.budget import RISK
from monitors.drift.effects import Sizes
from monitors.drift.joint import JOINT
from monitors.drift.watch import DriftVerdict
from monitors.loss import upper_bound_of
from monitors.reference import PREDICTION, Marginal, Profile
from monitors.risk import RiskVerdict
from monitors.slot import LOSS_UNIT
from serving.config import Monitors
from serving.errors import BadRequest

MISS = 0.05  # probability that a block's risk lies outside its interval
SETTINGS = (
    "block_s", "block_rows", "slot_s", "label_horizon_s", "min_coverage", "tolerance", "risk_tolerance",
    "false_pages_per_90_days", "unit", "quiet_blocks", "allow_correlated_blocks",
    "min_group_rows",
)  # fmt: skip


def run(
    profile: Profile, past: Past, ruler: Ruler, settings: Monitors, *, reference: File, data: File, gaugeway: str
) -> Document:
    """Judge `past` as if it came live. Raises BadRequest where no block has enough rows."""
    replay = Replay(profile, ruler, settings, labels=past.task is not None)
    log, blocks, said = Log(timed=ruler.rows is None), list[Block](), None
    for folded in replay.blocks(past.blocks):
        blocks.append(_block(profile, folded, ruler))
        said = folded.verdicts
        log.look(replay, said, blocks[-1].end)
    if said is None or not blocks[0].judged:
        raise BadRequest(
            f"{data.name} has {past.rows} rows, too few for a block: {settings.block_rows} are needed (--block-rows)"
        )
    return Document(
        gaugeway=gaugeway,
        reference=reference,
        data=data,
        by="time" if ruler.rows is None else "rows",
        settings={name: getattr(settings, name) for name in SETTINGS} | {"time_zone": profile.zone},
        promise=replay.monitor.promise(),
        notes=(*profile.notes, *_notes(past, blocks[-1], said)),
        risk=_allowed(said.risk, profile),
        metrics=past.metrics.scorecard(settings.min_group_rows),
        selftest=said.checks.self_test,
        reference_quality={name: _quality(law, np.array(law.counts)) for name, law in profile.features.items()},
        blocks=tuple(blocks),
        alarms=tuple(log.alarms),
    )


def _block(profile: Profile, folded: Folded, ruler: Ruler) -> Block:
    start, rows = ruler.mark(folded.first), folded.sums.counts.rows
    end = start + rows if isinstance(start, int) else ruler.mark(folded.last + 1)
    if folded.counted is None:
        return Block(start=start, end=end, rows=rows, judged=False)
    said, cells = folded.verdicts, folded.counted.cells
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
            if subject != RISK and subject not in profile.features and verdict.blocks
        },
        quality={name: _quality(law, cells[name]) for name, law in profile.features.items() if name in cells},
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


def _notes(past: Past, last: Block, said: Verdicts) -> Iterator[str]:
    late = sum(sums.late for sums in past.blocks.values())
    if late:
        yield f"{late} labels came after their slot was sealed and are in no evidence (monitors.label_horizon_s)"
    if not last.judged:
        yield f"the last block has {last.rows} rows, too few to be judged"
    if JOINT in said.drift and (why := said.drift[JOINT].note):
        yield f"features together are not judged: {why}"
    if past.task is not None and (why := said.checks.coverage.note) and not said.checks.coverage.blocks:
        yield f"whether labels still come is not judged: {why}"
