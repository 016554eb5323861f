"""How many replicas a pool should have, from what its replicas say of their load. Pure: no clock, no I/O.

The proposal is that of Kubernetes' horizontal autoscaler, ceil(replicas x value / target), and none other than what is
there while value / target lies within TOLERANCE of 1. The value has two terms:

- the busy ratio, the share of time in which a replica ran its model. It sees the load as long as there is capacity;
  it ends at 1, however much more is asked for.
- the queue: seconds of work that wait for a replica beyond its next run, divided by `catch_up_s`. It is as many
  replicas as are needed to do that work in this time, and so it grows with what the busy ratio cannot see.

The proposal is followed upwards once it was at least as high for `up_after_s`, and downwards once it was at most as
low for `down_after_s`: the least of recent proposals bounds from below, the greatest from above. To zero it falls only
when no replica had a request for `sleep_after_s`; from zero one replica is made as soon as a request waits.

Reference: Kubernetes, "Horizontal Pod Autoscaling", algorithm details and stabilization window.
"""

import math
from dataclasses import dataclass

from serving.config import Replicas

TOLERANCE = 0.1  # of the ratio of value and target: differences that are not followed


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica says of itself."""

    busy_ratio: float  # share of the time, of late
    queue_s: float = 0.0  # seconds of work that wait for it, without those of its next run
    idle_s: float = 0.0  # since its last request, or since it started


@dataclass(frozen=True, slots=True)
class Observation:
    """A pool at the time `now`, in seconds of any steady clock."""

    now: float
    target: int  # replicas that were asked for last
    loads: tuple[Load, ...]  # of those that run
    waiting: float = 0.0  # requests that wait for a pool without a replica


@dataclass(frozen=True, slots=True)
class Proposal:
    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class History:
    """Recent proposals, without those that a later one makes irrelevant: never more than there are replicas."""

    rising: tuple[Proposal, ...] = ()  # each above the one before; the first is the least of late
    falling: tuple[Proposal, ...] = ()  # each below the one before; the first is the greatest of late


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    history: History


def decide(policy: Replicas, history: History, seen: Observation) -> Decision:
    """How many replicas there should be, and what must be remembered until the next decision.

    >>> policy = Replicas(min=1, max=4, up_after_s=0)
    >>> decide(policy, History(), Observation(now=0.0, target=1, loads=(Load(busy_ratio=1.0),))).replicas
    2
    """
    if not history.rising:  # what was there before is a proposal too, or a new start would cut at once
        history = _remember(policy, history, Proposal(seen.now, seen.target))
    proposed = propose(policy, seen)
    if proposed == 0 or (seen.target == 0 and not seen.loads):  # it idled for long; or somebody waits for the first
        return Decision(proposed, History())
    history = _remember(policy, history, Proposal(seen.now, proposed))
    least, greatest = history.rising[0].replicas, history.falling[0].replicas
    return Decision(min(max(seen.target, least), greatest), history)


def propose(policy: Replicas, seen: Observation) -> int:
    """What this moment alone asks for, within the bounds."""
    if not seen.loads:  # none yet, or all have died: those that were asked for are on their way
        wanted = max(seen.target, 1 if seen.waiting > 0 else 0)
    elif policy.min == 0 and all(load.idle_s >= policy.sleep_after_s for load in seen.loads):
        wanted = 0
    else:
        work = sum(load.busy_ratio + load.queue_s / policy.catch_up_s for load in seen.loads)
        wanted = max(1, _desired(len(seen.loads), work / policy.target_busy_ratio))
    return min(max(wanted, policy.min), policy.max)


def _desired(replicas: int, total: float) -> int:
    """ceil(replicas x ratio), where `total` is replicas x ratio."""
    near = abs(total / replicas - 1.0) <= TOLERANCE
    return replicas if near else math.ceil(total - 1e-9)  # rounding alone asks for nobody


def _remember(policy: Replicas, history: History, new: Proposal) -> History:
    rising = [one for one in history.rising if one.replicas < new.replicas]
    falling = [one for one in history.falling if one.replicas > new.replicas]
    return History(
        (*_since(rising, new.at - policy.up_after_s), new), (*_since(falling, new.at - policy.down_after_s), new)
    )


def _since(proposals: list[Proposal], start: float) -> list[Proposal]:
    return [one for one in proposals if one.at > start]
