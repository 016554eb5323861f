"""Metrics of a version and its segments from sums of integers, each with a confidence sequence."""

from collections.abc import Callable

from monitors.metrics import classification, regression
from monitors.metrics.estimate import Estimates, Metric
from monitors.metrics.kpi import kpi
from monitors.metrics.sequence import ALPHA, Interval, share
from monitors.metrics.sums import Plan, Sums, Task

Measure = Callable[[Plan, Sums, float], dict[str, Estimates]]  # the last is how often an interval may miss

METRICS: dict[Task, Measure] = {
    "classification": classification.classification, "regression": regression.regression,
}  # fmt: skip
RATES: dict[Task, Measure] = {  # what segments are compared by
    "classification": classification.shares, "regression": regression.absolute,
}  # fmt: skip
BIAS: dict[Task, Callable[[Plan, Sums, float], Estimates]] = {
    "classification": classification.bias, "regression": regression.bias,
}  # fmt: skip

__all__ = [
    "ALPHA", "BIAS", "METRICS", "RATES", "Estimates", "Interval", "Measure", "Metric", "Plan", "Sums", "Task", "kpi",
    "share",
]  # fmt: skip
