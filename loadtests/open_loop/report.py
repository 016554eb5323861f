"""What became of a run: numbers that can be compared, a table to read, JSON to keep."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from rich.table import Table

from loadtests.open_loop.arrivals import Plan
from loadtests.open_loop.generator import Behaviour
from loadtests.open_loop.outcomes import NAMES, Outcomes
from loadtests.open_loop.percentiles import Percentile, percentiles

LATE_S, BUSY = 0.01, 0.9  # p99 of the lag of sending, and share of a core, at which the generator was too slow
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Class:
    """One priority class."""

    name: str
    sent: int
    good: int  # right answers within the deadline


@dataclass(frozen=True)
class Second:
    """One second of arrivals; `p99_s` of its right answers is their maximum below 100 of them."""

    start_s: float
    sent: int
    good: int
    p99_s: float | None


@dataclass(frozen=True)
class Refusal:
    status: int
    reason: str
    attempts: int


@dataclass(frozen=True)
class Report:
    """Latencies count from the scheduled arrival; `goodput_per_s` is right answers within the deadline."""

    offered_per_s: float
    goodput_per_s: float
    sent: int
    good: int
    attempts: int
    statuses: dict[str, int]  # of requests, after all retries
    refusals: tuple[Refusal, ...]
    classes: tuple[Class, ...]
    wrong: int
    late_answers: int
    latency_s: tuple[Percentile, ...]  # of right answers, also those past the deadline
    lag_s: tuple[Percentile, ...]  # of sending behind the schedule
    seconds: tuple[Second, ...]
    most_connections: int
    cpu_s_per_request: float
    cpu_share: float  # of one core
    too_slow: str  # why the generator itself was the bottleneck; empty when it was not

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def report(plan: Plan, outcomes: Outcomes, behaviour: Behaviour, seconds: float) -> Report:
    ok: Bools = outcomes.status == 200
    ok[[request for request, _ in outcomes.wrong]] = False
    latency = outcomes.done_s - plan.times_s
    good: Bools = ok & (latency <= behaviour.deadline_s)
    lag = percentiles(_known(outcomes.sent_s - plan.times_s))
    share = outcomes.cpu_s / max(outcomes.wall_s, 1e-9)
    statuses = Counter(NAMES.get(int(status), str(status)) for status in outcomes.status)
    return Report(
        offered_per_s=len(plan) / seconds,
        goodput_per_s=int(good.sum()) / seconds,
        sent=len(plan),
        good=int(good.sum()),
        attempts=int(outcomes.attempts.sum()),
        statuses=dict(sorted(statuses.items())),
        refusals=tuple(Refusal(*what, n) for what, n in outcomes.refusals.most_common()),
        classes=tuple(_class(name, plan.priorities == i, good) for i, name in enumerate(plan.names)),
        wrong=len(outcomes.wrong) + outcomes.unasked,
        late_answers=outcomes.late_answers,
        latency_s=percentiles(latency[ok]),
        lag_s=lag,
        seconds=tuple(_second(start, plan, ok, good, latency) for start in np.arange(0.0, seconds)),
        most_connections=outcomes.most_connections,
        cpu_s_per_request=outcomes.cpu_s / max(1, int(outcomes.attempts.sum())),
        cpu_share=share,
        too_slow=_too_slow(lag, share, outcomes, behaviour),
    )


def _class(name: str, members: Bools, good: Bools) -> Class:
    return Class(name, int(members.sum()), int((members & good).sum()))


def _second(start: float, plan: Plan, ok: Bools, good: Bools, latency: npt.NDArray[np.float64]) -> Second:
    within: Bools = (plan.times_s >= start) & (plan.times_s < start + 1)
    answered = latency[within & ok]
    p99_s = float(np.quantile(answered, 0.99, method="higher")) if len(answered) else None
    return Second(float(start), int(within.sum()), int((within & good).sum()), p99_s)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values[~np.isnan(values)]


def _too_slow(lag: tuple[Percentile, ...], share: float, outcomes: Outcomes, behaviour: Behaviour) -> str:
    late = next((one for one in reversed(lag) if one.quantile <= 0.99), None)
    said = []
    if late is not None and late.value > LATE_S:
        said.append(f"{1 - late.quantile:.0%} of the requests were sent {late.value * 1e3:.0f} ms late or more")
    if share > BUSY:
        said.append(f"it used {share:.0%} of a core")
    if outcomes.most_connections >= behaviour.most_connections:
        said.append(f"a client had all its {behaviour.most_connections} connections open")
    return "; ".join(said)


def table(found: Report, deadline_s: float) -> Table:
    """For people."""
    shown = Table("what", "value", "95 % interval", title="open loop", title_justify="left")
    shown.add_row("offered", f"{found.offered_per_s:,.1f} requests/s ({found.sent:,})", "")
    shown.add_row(f"goodput (right within {deadline_s:g} s)", f"{found.goodput_per_s:,.1f} requests/s", "")
    for one in found.classes:
        shown.add_row(f"  of {one.name}", f"{one.good / max(1, one.sent):.2%} of {one.sent:,}", "")
    for status, n in found.statuses.items():
        shown.add_row(f"status {status}", f"{n:,}", "")
    for refusal in found.refusals:
        shown.add_row(f"  {refusal.status} {refusal.reason}", f"{refusal.attempts:,} attempts", "")
    shown.add_row("wrong answers", f"{found.wrong:,}", "")
    for name, values in (("latency", found.latency_s), ("lag of sending", found.lag_s)):
        for p in values:
            shown.add_row(
                f"{name} p{p.quantile * 100:g}",
                f"{p.value * 1e3:.2f} ms",
                f"{p.lower * 1e3:.2f} to {p.upper * 1e3:.2f}",
            )
    cost = f"{found.cpu_s_per_request * 1e6:.0f} µs a request, {found.cpu_share:.0%} of a core"
    shown.add_row("generator", f"{cost}, at most {found.most_connections} connections a client", "")
    return shown
