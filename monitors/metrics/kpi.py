"""The mean of a number that matters, sent with the label, or of the label itself."""

from monitors.metrics.estimate import Estimates, ratio
from monitors.metrics.sequence import ALPHA, Interval, mean
from monitors.metrics.sums import Plan, Sums
from monitors.slot import LOSS_UNIT


def kpi(plan: Plan, sums: Sums, alpha: float = ALPHA) -> dict[str, Estimates]:
    """Within the declared range, where one outside counts as its end; nothing where none is declared."""
    width = plan.high - plan.low
    if width <= 0:
        return {}
    n, total, squares = (part / plan.design_effect for part in (plan.rows(sums), sums[:, -2], sums[:, -1]))
    ends = mean(n, total * LOSS_UNIT, squares * LOSS_UNIT, alpha)
    value = plan.low + width * ratio(total * LOSS_UNIT, n)
    return {"kpi": Estimates(value, Interval(*(plan.low + width * end for end in ends)), n * plan.design_effect)}
