"""A new reference for drift: the rows of live blocks, in the cells that every node counts anyway.

The published reference stays what it was, and so does what the loss is held to. A feature keeps its reference where
the live rows are too few for another one, or lie where the bins are not.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from monitors.drift.change import starts
from monitors.drift.watch import Past
from monitors.explain.wording import when
from monitors.marginal import Marginal
from monitors.profile import Profile
from monitors.sampling import MIN_BLOCKS, correlation_s, dispersion, dispersions, fewest_rows
from monitors.tally import MAX_CLUSTERED_ERROR

MOST_BEYOND = 0.5  # of a number's rows below or above the bins, where nothing tells them apart


class Recount(msgspec.Struct, frozen=True, array_like=True):
    """What the law of a feature without references by hour has from live rows; its cells stay."""

    counts: tuple[int, ...]
    design_effect: float
    dispersions: tuple[float, ...]
    block_rows: float
    correlation_s: float | None  # None: not measured

    def of(self, law: Marginal) -> Marginal:
        found = msgspec.structs.asdict(self)
        if self.correlation_s is None:
            found["correlation_s"] = msgspec.UNSET
        return msgspec.structs.replace(law, medians=(), strata=msgspec.UNSET, **found)


class Rebased(msgspec.Struct, frozen=True):
    """By which order; blocks were taken up to `until`, seconds since 1970 UTC. `left` says by feature why not."""

    order: int
    until: float
    features: dict[str, Recount]
    left: dict[str, str]
    reference: int = 0  # the order that brought the reference whose cells these are; 0: its publication

    @property
    def notes(self) -> tuple[str, ...]:
        kept = tuple(f"{name} keeps its reference: {why}" for name, why in self.left.items())
        if not self.features:
            return (f"order {self.order} changed no reference", *kept)
        names = ", ".join(sorted(self.features))
        return (
            f"the reference of drift are live rows up to {when(self.until)} (order {self.order}): {names}",
            *kept,
            "how features go together is not judged: of live rows it is not kept",
        )

    def applied(self, profile: Profile) -> Profile:
        """The published profile with these laws. How features go together is not known of live rows."""
        if not self.features:
            return profile
        laws = {name: self.features[name].of(law) if name in self.features else law
                for name, law in profile.features.items()}  # fmt: skip
        return msgspec.structs.replace(profile, features=laws, sample=None)


def rebase(
    order: int, laws: Mapping[str, Marginal], pasts: Mapping[str, Past], before: Rebased | None, block_s: float
) -> Rebased:
    """Of every feature that is judged, its kept blocks, and where it is in alarm those after the change."""
    features, left = dict(before.features) if before else {}, {}
    for name, law in laws.items():
        try:
            features[name] = recount(law, pasts[name], block_s)
        except ValueError as error:
            left[name] = str(error)
    until = max((past.ends[-1] for past in pasts.values() if past.ends), default=0.0)
    return Rebased(order, until, features, left)


def recount(law: Marginal, past: Past, block_s: float) -> Recount:
    """Raises ValueError with a sentence where these blocks make no reference."""
    if law.unfit:
        raise ValueError(law.unfit)
    if law.strata:
        raise ValueError("its reference is by hour, and the kept blocks hold no weeks: take a file or captured rows")
    after = past.onset.at if past.onset else -np.inf
    ends = [end for end, start in zip(past.ends, starts(past.ends) if past.ends else [], strict=True) if start >= after]
    counts = np.array(past.counts[len(past.counts) - len(ends) :], np.int64).reshape(-1, law.size)
    if len(counts) < MIN_BLOCKS:
        raise ValueError(f"{len(counts)} blocks since the change, {MIN_BLOCKS} are needed")
    if (rows := int(counts.sum())) < (fewest := fewest_rows(law.size, law.alpha)):
        raise ValueError(f"{rows} rows since the change, {fewest} are needed")
    if law.kind == "numeric" and (beyond := counts[:, [0, -2]].sum() / max(1, counts[:, :-1].sum())) > MOST_BEYOND:
        raise ValueError(f"{beyond:.0%} of its values lie outside the bins: publish a version with a newer reference")
    n = counts.sum(1)
    found = Recount(
        counts=tuple(counts.sum(0).tolist()),
        design_effect=dispersion(counts),
        dispersions=dispersions(counts),
        block_rows=float((n**2).sum() / n.sum()),
        correlation_s=correlation_s(counts, np.rint(np.array(ends) / block_s).astype(np.int64), block_s),
    )
    if found.of(law).error > MAX_CLUSTERED_ERROR:
        raise ValueError(f"reference too small: its {found.of(law).worth}")
    return found
