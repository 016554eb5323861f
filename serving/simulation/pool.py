"""One pool under a load, in steps of time: requests arrive by chance, replicas start late, the autoscaler decides.

Each request costs a replica `request_s`; what cannot be done at once waits, first come first served. The autoscaler is
`serving.autoscaling`, told as Serve tells it: averages of each replica over the same window, a moment late. Not
simulated: batches that cost less together than apart, refusals, replicas that die.
"""

from dataclasses import dataclass

import numpy as np

from serving.autoscaler import INTERVAL_S, LOOK_BACK_S
from serving.autoscaling import History, Load, Observation, decide
from serving.config import Replicas
from serving.protocol import Array
from serving.simulation.load import Trace

SHORT_S, STEP_S, LONG_STEP_S = 3600.0, 0.1, 1.0  # runs up to an hour go on in tenths of a second


@dataclass(frozen=True)
class Setting:
    """A pool that may be: how it is scaled, what a request costs, how long a replica takes to start."""

    policy: Replicas
    request_s: float
    cold_start_s: float
    first: int | None = None  # replicas at the start; None: as many as the load of the start asks for
    seed: int = 1


@dataclass(frozen=True)
class Run:
    """What happened, one element a step; every array has shape (steps,)."""

    step_s: float
    at_s: Array
    arrived: Array  # requests in the step
    wanted: Array  # replicas asked for
    ready: Array  # replicas that work
    waiting: Array  # requests at the end of the step
    wait_s: Array  # of the requests that arrived in the step; the last of them, to a step


class Pool:
    """The state between two steps."""

    def __init__(self, setting: Setting, step_s: float, first: int) -> None:
        self._setting, self._step_s = setting, step_s
        self.wanted, self._history = first, History()
        self._started = [-LOOK_BACK_S] * first  # when each replica that works, or will, was or will be ready
        self.work_s = 0.0  # that waits
        self._busy, self._queue = [0.0], [0.0]  # sums over all steps so far, for averages over any window
        self._last_arrival = 0.0

    def ready(self, now: float) -> int:
        return sum(start <= now for start in self._started)

    def step(self, now: float, requests: int) -> float:
        """Seconds of work that were done."""
        if requests:
            self._last_arrival = now
        working = self.ready(now)
        self.work_s += requests * self._setting.request_s
        done_s = min(self.work_s, working * self._step_s)
        self.work_s -= done_s
        self._busy.append(self._busy[-1] + (done_s / (working * self._step_s) if working else 0.0))
        share_s = self.work_s / max(1, working)
        self._queue.append(self._queue[-1] + max(0.0, share_s - self._setting.request_s))
        self._scale(now)
        return done_s

    def _scale(self, now: float) -> None:
        waiting = self.work_s / self._setting.request_s if not self.ready(now) else 0.0
        seen = Observation(now, self.wanted, self._loads(now), waiting)
        decision = decide(self._setting.policy, self._history, seen)
        self.wanted, self._history = decision.replicas, decision.history
        missing = self.wanted - len(self._started)
        self._started += [now + self._setting.cold_start_s] * missing
        self._started = sorted(self._started)[: self.wanted]  # those that have not begun yet go first

    def _loads(self, now: float) -> tuple[Load, ...]:
        """What the replicas that have reported are known to do."""
        told = [start for start in self._started if start <= now - INTERVAL_S]
        return tuple(self._load(start, now) for start in told)

    def _load(self, start: float, now: float) -> Load:
        """The average since `LOOK_BACK_S`, or since it started."""
        end = len(self._busy) - 1
        steps = max(1, min(end, round(min(LOOK_BACK_S, now - start) / self._step_s)))
        busy = (self._busy[end] - self._busy[end - steps]) / steps
        queue_s = (self._queue[end] - self._queue[end - steps]) / steps
        return Load(busy, queue_s, now - max(start, self._last_arrival))


def simulate(trace: Trace, setting: Setting) -> Run:
    """The same trace and setting give the same run."""
    step_s = STEP_S if trace.seconds <= SHORT_S else LONG_STEP_S
    at_s = np.arange(0.0, trace.seconds, step_s)
    rates = np.array([trace.at(at).requests_per_s for at in at_s])
    arrived = np.random.default_rng(setting.seed).poisson(rates * step_s)
    pool = Pool(setting, step_s, _first(trace, setting))
    columns = np.empty((4, len(at_s)))
    for i, now in enumerate(at_s):
        working, done_s = pool.ready(float(now)), pool.step(float(now), int(arrived[i]))
        columns[:, i] = pool.wanted, working, pool.work_s / setting.request_s, done_s
    wanted, ready, waiting, done = columns
    return Run(step_s, at_s, arrived, wanted, ready, waiting, _waits(arrived * setting.request_s, done, step_s))


def _first(trace: Trace, setting: Setting) -> int:
    """A pool that has been under the first load for long."""
    policy, start = setting.policy, trace.moments[0]
    first = setting.first if setting.first is not None else start.replicas
    if first is None:
        first = int(np.ceil(start.requests_per_s * setting.request_s / policy.target_busy_ratio))
    return min(max(first, policy.min), policy.max)


def _waits(came_s: Array, done_s: Array, step_s: float) -> Array:
    """Of the last work of each step, until as much work is done as had come; first come, first served."""
    came, done = np.cumsum(came_s), np.cumsum(done_s)
    ended = np.searchsorted(done, came - 1e-9)
    return (ended - np.arange(len(came))).clip(min=0) * step_s
