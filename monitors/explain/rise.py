"""What a rise of the mean loss comes from: the cells of features that carry more of it than their share of the rows.

Of a feature let p0 be the shares of the reference rows by cell, l0 their mean losses and R0 the mean of all; p, l and R
are those of the rows now. The rise is a sum over cells,

    R - R0 = sum of (p - p0) (l0 - R0) + p (l - l0)

of what comes from where the rows are, and of how well they are predicted there (Kitagawa 1955, *Components of a
difference between two rates*, JASA). Losses are taken less R0, since of shares that change some grow by what the others
shrink: where all cells have one loss, nothing comes from where the rows are.

A rise of all rows alike is no news of any cell. So a cell is named where it carries more than p (R - R0), and more by
what chance explains: both periods have such a part by the `spread` of their blocks (`cell_losses`), of the rows now
the reference's, or their own where it is larger and four blocks show it. Student's t, for all cells at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from monitors.cell_losses import CellLosses, Floats, Losses, Numbers, excess, spread
from monitors.explain import cells
from monitors.explain.explanation import Carrier, Part, Rise
from monitors.explain.wording import carried, risen
from monitors.loss import LOSS_UNIT
from monitors.marginal import Marginal
from monitors.sampling import MIN_BLOCKS

ALPHA = 0.05  # the probability that any cell of any feature is beyond its error
MOST = 10  # features that are told


class LossPast(NamedTuple):
    """The judged blocks since the loss rose: of each its losses by cell, as in `LabelCounts`."""

    tables: tuple[bytes, ...]
    block_s: float
    least: int  # rows of a cell of which anything is told


class _Rows(NamedTuple):
    """Rows and sums of losses by cell, shape (K,)."""

    n: Floats
    loss: Floats

    @property
    def share(self) -> Floats:
        return np.asarray(self.n / self.n.sum())

    @property
    def mean(self) -> float:
        return float(self.loss.sum() / self.n.sum())

    def some(self, which: NDArray[np.intp]) -> tuple[float, float | None]:
        """The share of the rows that lie in these cells, and their mean loss; None without a row."""
        n = float(self.n[which].sum())
        return n / float(self.n.sum()), float(self.loss[which].sum()) / n if n else None


class _Account(NamedTuple):
    """What the cells of a feature carry, all of shape (K,); `error` is infinite where it is not known."""

    before: _Rows
    now: _Rows
    mix: Floats
    rate: Floats
    beyond: Floats
    error: Floats
    carries: NDArray[np.bool_]


def explain_rise(losses: Losses, laws: Mapping[str, Marginal], past: LossPast, feature: str = "") -> Rise | None:
    """Which cells carry it, of the feature that is asked for, else of all that carry more than their share.

    None where no row of the blocks was counted by cell.
    """
    tables = {name: sums for name, sums in losses.split(past.tables).items() if sums[:, 0].any()}
    if not tables:
        return None
    told = sum(int((sums[:, 0].sum(0) >= past.least).sum()) for sums in tables.values())
    found = [
        _carrier(name, laws[name], _account(losses, name, sums, past, told), past.least)
        for name, sums in tables.items()
        if feature in ("", name)
    ]
    if not feature:
        found = sorted((one for one in found if one.where), key=lambda one: (-_beyond(one), one.feature))[:MOST]
    rise = _whole(losses, tables, found)
    return msgspec.structs.replace(rise, text=risen(rise))


def _whole(losses: Losses, tables: Mapping[str, Numbers], carriers: Sequence[Carrier]) -> Rise:
    """By the feature that most rows have."""
    name = max(sorted(tables), key=lambda name: int(tables[name][:, 0].sum()))
    known, sums = losses.features[name], tables[name]
    rows = int(sums[:, 0].sum())
    return Rise(
        reference=sum(known.loss) * LOSS_UNIT / sum(known.rows),
        now=int(sums[:, 1].sum()) * LOSS_UNIT / rows,
        rows=rows,
        blocks=len(sums),
        carriers=tuple(carriers),
    )


def _beyond(found: Carrier) -> float:
    return sum(part.beyond for part in found.parts if part.carries)


def _account(losses: Losses, name: str, sums: Numbers, past: LossPast, told: int) -> _Account:
    known, sums = losses.features[name], sums[sums[:, 0].any(1)]
    before = _Rows(np.array(known.rows, np.float64), np.array(known.loss) * LOSS_UNIT)
    now = _Rows(sums[:, 0].sum(0).astype(np.float64), sums[:, 1].sum(0) * LOSS_UNIT)
    loss = np.divide(before.loss, before.n, out=np.full(len(before.n), before.mean), where=before.n > 0)
    mix = (now.share - before.share) * (loss - before.mean)
    rate = now.loss / now.n.sum() - now.share * loss
    beyond, error = excess(*now) - excess(*before), _errors(known, losses, sums, past, told)
    carries = (now.n >= past.least) & (beyond > error) & (mix + rate > 0) & (now.mean > before.mean)
    return _Account(before, now, mix, rate, beyond, error, carries)


def _errors(known: CellLosses, losses: Losses, sums: Numbers, past: LossPast, told: int) -> Floats:
    """Of a cell with hardly a row in the reference, the rows now alone must show how far it varies.

    Where neither period has blocks enough to show it, nothing is beyond chance.
    """
    rows, spreads, blocks = np.array(known.rows), np.array(known.spread), len(sums)
    if not losses.blocks and blocks < MIN_BLOCKS:
        return np.full(len(rows), np.inf)
    n, level = float(sums[:, 0].sum()), 1 - ALPHA / (2 * max(1, told))
    if losses.blocks:  # rows that share a block's weather may be more than they were
        together = min(n, n / blocks * losses.block_s / past.block_s)
        larger = spreads * max(1.0, together / losses.block_rows)
    else:
        larger = spreads
    own = np.full(len(rows), np.inf)
    if blocks >= MIN_BLOCKS:
        own = spread(sums[:, 0].astype(np.float64), sums[:, 1].astype(np.float64) * LOSS_UNIT)
        larger = np.maximum(larger, own)
    usual = stdtrit((losses.blocks or rows.sum()) - 1, level) * np.sqrt(spreads / rows.sum() + larger / n)
    alone = stdtrit(max(1, blocks - 1), level) * np.sqrt(own / n)
    return np.asarray(np.where(rows < past.least, alone, usual))


def _carrier(name: str, law: Marginal, account: _Account, least: int) -> Carrier:
    which, rise = np.flatnonzero(account.carries), account.now.mean - account.before.mean
    parts = tuple(_parts(law, account, least))
    if not len(which):
        return Carrier(feature=name, parts=parts)
    reference, loss_before = account.before.some(which)
    now, loss = account.now.some(which)
    mix, off = float(account.mix[which].sum()), float(account.error[which].sum())
    share = mix + float(account.rate[which].sum())
    found = Carrier(
        feature=name,
        where=", ".join(cells.spans(law, which.tolist())),
        share=share / rise,
        lower=max(0.0, (share - off) / rise),
        upper=(share + off) / rise,
        mix=mix / share,
        now=now,
        reference=reference,
        loss=loss or 0.0,
        loss_before=loss_before,
        parts=parts,
    )
    return msgspec.structs.replace(found, text=carried(found))


def _parts(law: Marginal, account: _Account, least: int) -> Iterator[Part]:
    """Cells with few rows are told as one, and their loss is not."""
    small = account.now.n < least
    for k, name in enumerate(cells.names(law)):
        if not small[k]:
            error = float(account.error[k])
            part = _part(name, account, np.array([k]))
            yield msgspec.structs.replace(
                part, error=error if math.isfinite(error) else None, carries=bool(account.carries[k])
            )
    if account.now.n[small].any() or account.before.n[small].any():
        few = _part(f"cells with fewer than {least} rows", account, np.flatnonzero(small))
        yield msgspec.structs.replace(few, loss=None)


def _part(name: str, account: _Account, which: NDArray[np.intp]) -> Part:
    reference, loss_before = account.before.some(which)
    now, loss = account.now.some(which)
    mix, rate, beyond = (float(of[which].sum()) for of in (account.mix, account.rate, account.beyond))
    return Part(
        name=name, reference=reference, now=now, loss_before=loss_before, loss=loss, mix=mix, rate=rate,
        beyond=beyond, error=None, carries=False,
    )  # fmt: skip
