"""What an alarm promises and what that rests on, in plain words with a version's own numbers."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from monitors.budget import PERIOD_S
from monitors.drift.watch import WINDOW_BLOCKS
from monitors.reference import Marginal, Profile
from serving.config import Monitors

ALL_HOURS = ", at all hours alike: drift is compared by hour, harm is not, so that hours of more loss are harm"
MOST_NAMED = 5  # features that a sentence lists


@lru_cache(4096)  # told again after every block
def of_alarm(run_blocks: float, block_s: float, assumptions: tuple[str, ...]) -> str:
    """The promise of one alarm.

    >>> of_alarm(6480, 3600, ("rows are independent",))
    'At most one false alarm in 270 days on average (6480 blocks of 1 h), as long as (1) rows are independent.'
    """
    days = run_blocks * block_s / 86400
    return (
        f"At most one false alarm in {days:g} days on average ({run_blocks:.0f} blocks of {span(block_s)}),"
        f" as long as {_listed(assumptions)}."
    )


def of_all(pagers: int, run_blocks: float, block_s: float, assumptions: Iterable[str]) -> str:
    """The promise of all alarms together that share the budget."""
    times = PERIOD_S / block_s * pagers / run_blocks
    return (
        f"At most {times:g} false pages and tickets in {PERIOD_S / 86400:g} days on average over all versions (each of"
        f" {pagers} alarms at most one in {run_blocks:.0f} blocks of {span(block_s)}), as long as"
        f" {_listed(assumptions)}."
    )


def of_drift(laws: Mapping[str, Marginal], profile: Profile, settings: Monitors) -> tuple[str, str]:
    """What the promise of drift in these features rests on: what no drift is, and how rows may depend."""
    blunt = max(laws, key=lambda name: laws[name].error)
    share = "on average over a block" if settings.unit == "block" else "whatever came before them"
    same = (
        f"without drift at most {settings.tolerance:g} of the rows, {share}, leave the cells that"
        f" a feature has in the reference{_hours(laws)}, beyond what the reference itself may be wrong by (at most"
        f" {laws[blunt].error:.3f}, for {blunt}; more with probability {laws[blunt].alpha:g} a feature)"
    )
    if settings.unit == "block":
        return same, _blocks_apart(laws, profile, settings)
    return same + _once(settings.unit), _apart(laws, profile, settings)


def _hours(laws: Mapping[str, Marginal]) -> str:
    """At which hours, where these are compared apart."""
    alike: dict[str, list[str]] = {}
    for name, law in laws.items():
        alike.setdefault(f"by {law.strata.by} ({law.strata.zone})" if law.strata else "", []).append(name)
    whole = alike.pop("", None)
    if not alike:
        return ""
    said = [f"{_named(names)} {by}" for by, names in alike.items()]
    return f" at the same hours ({'; '.join(said)}{f'; {_named(whole)} at all hours together' if whole else ''})"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} features"


def _once(unit: str) -> str:
    """What clusters add to it."""
    _, _, cluster = unit.partition(":")
    return f", counting one row of each {cluster} and block, here as in the reference" if cluster else ""


def span(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds % 3600 == 0 else f"{seconds:g} s"


def _apart(laws: Mapping[str, Marginal], profile: Profile, settings: Monitors) -> str:
    clustered = max(laws, key=lambda name: laws[name].design_effect)
    design = laws[clustered].design_effect
    apart = "rows do not depend on one another (no design effect was measured)"
    if any(law.block_rows for law in laws.values()):
        apart = (
            f"rows depend on one another only inside a block: as much as in the reference, where up to {design:.1f}"
            f" rows are worth one (the design effect of {clustered}), or in sparser blocks as much as the last"
            f" {WINDOW_BLOCKS} show"
        )
    return apart + _shorter(design, profile, settings) + _correlated(laws, settings)


def _blocks_apart(laws: Mapping[str, Marginal], profile: Profile, settings: Monitors) -> str:
    design = max(law.design_effect for law in laws.values())
    return (
        "no block tells what the next will be, however its own rows depend on one another"
        + _shorter(design, profile, settings)
        + _correlated(laws, settings)
    )


def _shorter(design: float, profile: Profile, settings: Monitors) -> str:
    if design <= 1 or settings.block_s >= profile.block_s:
        return ""
    return (
        f", although blocks of {span(settings.block_s)} are shorter than those it was measured on"
        f" ({span(profile.block_s)}) and neighbours may depend: then alarms come more often"
    )


def _correlated(laws: Mapping[str, Marginal], settings: Monitors) -> str:
    slowest = max(laws, key=lambda name: laws[name].memory_s)
    seconds = laws[slowest].memory_s
    if seconds <= settings.block_s:
        return ""
    calls = "" if settings.allow_correlated_blocks else " and call nobody (`monitors.allow_correlated_blocks`)"
    return (
        f"; blocks of {span(settings.block_s)} are shorter than the correlation time of {slowest}"
        f" ({seconds / 3600:.1f} h), so neighbours do depend on one another: alarms of drift come more often{calls}"
    )


def _listed(assumptions: Iterable[str]) -> str:
    return "; ".join(f"({number}) {text}" for number, text in enumerate(assumptions, 1))
