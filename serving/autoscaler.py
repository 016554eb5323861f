"""What Ray Serve's autoscaler asks, ten times a second and for each pool: the edge around `serving.autoscaling`.

Serve calls it in its own controller, which needs this package but none of Gaugeway's processes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

import msgspec

from serving.autoscaling import History, Load, Observation, decide
from serving.config import Replicas

INTERVAL_S = 0.5  # between two reports of a replica; Serve's default is 10
LOOK_BACK_S = 1.5  # of reports that are averaged; Serve's default is 30
MEASURES = tuple(field.name for field in fields(Load))


class Context(Protocol):
    """What is used of `ray.serve.config.AutoscalingContext`."""

    @property
    def target_num_replicas(self) -> int: ...
    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...
    @property
    def total_queued_requests(self) -> float: ...


class Autoscaler:
    """Serve makes one for each pool, from `arguments`, and keeps it while the pool's settings stay."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, **policy: Any) -> None:
        self._policy, self._clock = msgspec.convert(policy, Replicas), clock
        self._history = History()

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        seen = Observation(
            self._clock(), context.target_num_replicas, _loads(context), context.total_queued_requests or 0.0
        )
        decision = decide(self._policy, self._history, seen)
        self._history = decision.history
        return decision.replicas, {}


def arguments(policy: Replicas) -> dict[str, Any]:
    """Of `Autoscaler`, as JSON has them; of a pool only what it is scaled by."""
    return {name: getattr(policy, name) for name in Replicas.__struct_fields__}


def report(load: Load) -> dict[str, float]:
    """A load as Serve carries it from the replica to `Autoscaler`."""
    return {measure: getattr(load, measure) for measure in MEASURES}


def _loads(context: Context) -> tuple[Load, ...]:
    """Of the replicas that have said all; at zero replicas there are none."""
    told = context.aggregated_metrics or {}
    columns = [told.get(measure, {}) for measure in MEASURES]
    return tuple(Load(*(column[one] for column in columns)) for one in columns[0] if all(one in c for c in columns))
