"""The edge to Serve's autoscaler: what a replica reports arrives as a load, and the decision is kept between calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.serve.config import AutoscalingPolicy

from serving.autoscaler import Autoscaler, arguments, report
from serving.autoscaling import Load
from serving.config import Pool, Replicas


@dataclass
class Context:
    """What Serve tells."""

    target_num_replicas: int
    aggregated_metrics: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    total_queued_requests: float = 0.0


def told(*loads: Load) -> dict[str, dict[str, float]]:
    """Serve turns the reports of replicas into a column for each measure."""
    return {measure: {str(i): report(load)[measure] for i, load in enumerate(loads)} for measure in report(Load(0))}


def test_the_load_of_all_replicas_decides() -> None:
    scaler = Autoscaler(clock=iter(range(100)).__next__, **arguments(Replicas(min=1, max=8, up_after_s=0)))
    assert scaler(Context(2, told(Load(0.7), Load(0.7)))) == (2, {})
    assert scaler(Context(2, told(Load(1.0, queue_s=2.0), Load(1.0, queue_s=2.0))))[0] == 6


def test_what_was_proposed_before_is_remembered() -> None:
    times = iter([0.0, 1.0, 4.0])
    scaler = Autoscaler(clock=times.__next__, **arguments(Replicas(min=1, max=8, down_after_s=3)))
    answers = [scaler(Context(4, told(*[Load(0.1)] * 4)))[0] for _ in range(3)]
    assert answers == [4, 4, 1]


def test_at_zero_replicas_nothing_is_reported_and_what_waits_counts() -> None:
    scaler = Autoscaler(**arguments(Replicas(min=0, max=2)))
    assert scaler(Context(0))[0] == 0
    assert scaler(Context(0, total_queued_requests=1.0))[0] == 1


def test_a_replica_that_has_not_said_all_is_not_counted() -> None:
    scaler = Autoscaler(**arguments(Replicas(min=1, max=8, up_after_s=0)))
    partly = told(Load(0.7), Load(0.7))
    del partly["idle_s"]["1"]
    assert scaler(Context(2, partly))[0] == 2  # the other has not started to tell: it stays


def test_serve_makes_it_from_a_pool() -> None:
    """As Serve does: the class by value, the arguments as JSON."""
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function=Autoscaler, policy_kwargs=arguments(Pool(min=1, max=3, cpu=2, up_after_s=0))
    )
    scaler = policy.get_policy()(**policy.policy_kwargs)
    assert scaler(Context(1, told(Load(1.0, queue_s=9.0))))[0] == 3
