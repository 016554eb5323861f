"""False alarms and delays of the check of a model's probabilities, on streams that nothing was chosen on.

    python -m loadtests.calibration

Days of 300 predictions from Beta(1, 3). A label is 1 with the probability that the model gives, or another that is
fixed (`Truth`), and all rows of a day share its weather, normal with standard deviation `weather`. A reference is 60
such days, made anew every ten streams, so that its table errs as tables do.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from monitors.calibration import CalibrationWatch
from monitors.loss import Risk
from monitors.reference import build
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.config import Monitors

Floats = NDArray[np.float64]
Truth = Callable[[Floats], Floats]  # the probability of a label of 1, from what the model says

ROWS, REFERENCE_DAYS, STREAMS_EACH, DAY_S = 300, 60, 10, 86400.0
WEATHERS = (0.0, 0.05, 0.1)
CHANGES: dict[str, Truth] = {
    "+0.05": lambda p: p + 0.05,
    "+0.1": lambda p: p + 0.1,
    "half as often again": lambda p: 1.5 * p,
    "half as often": lambda p: 0.5 * p,
}


def unchanged(p: Floats) -> Floats:
    return p


def too_sure(p: Floats) -> Floats:
    """A model that says too much, in the reference as now: its table says so."""
    return 0.1 + 0.7 * p


def day(rng: np.random.Generator, truth: Truth, weather: float) -> tuple[Floats, Floats]:
    """Predictions and labels."""
    p = rng.beta(1, 3, ROWS)
    y = rng.random(ROWS) < np.clip(truth(p) + rng.normal(0, weather), 0, 1)
    return p, y.astype(np.float64)


def reference(rng: np.random.Generator, truth: Truth, weather: float) -> Risk:
    days = [day(rng, truth, weather) for _ in range(REFERENCE_DAYS)]
    p, y = (np.concatenate(column) for column in zip(*days, strict=True))
    time = np.repeat(np.arange(REFERENCE_DAYS) * DAY_S, ROWS)
    found = build({}, {}, prediction=p, labels=y, task="classification", time=time).risk
    assert found is not None
    return found


def sealed(risk: Risk, p: Floats, y: Floats) -> LabelCounts:
    """A block as the ledger counts it."""
    lows = [bin.low for bin in risk.calibration]
    at, n = np.maximum(np.searchsorted(lows, p, side="right") - 1, 0), len(lows)
    rows, ones = np.bincount(at, minlength=n), np.bincount(at, y, n)
    units = np.rint(np.bincount(at, p, n) / LOSS_UNIT)
    return LabelCounts(len(p), len(p), 0, rows.tolist(), ones.astype(int).tolist(), [int(value) for value in units])


def evidence(risk: Risk, rng: np.random.Generator, truth: Truth, weather: float, a: float) -> Iterator[float]:
    """In nats after each day, for ever; after it reached log a it begins again."""
    watch, threshold = CalibrationWatch(risk, Monitors(block_s=DAY_S)), float(np.log(a))
    while True:
        watch.judge(sealed(risk, *day(rng, truth, weather)), 0.0, threshold, quiet_blocks=10)
        yield watch.verdict(threshold).log_e


def false_alarms(truth: Truth, weather: float, *, streams: int, days: int = 80, a: float = 20.0, seed: int = 1) -> int:
    """Of so many streams without a change; the promise allows streams * days / a on average."""
    rng, found = np.random.default_rng(seed), 0
    for stream in range(streams):
        if stream % STREAMS_EACH == 0:
            risk = reference(rng, truth, weather)
        nats = evidence(risk, rng, truth, weather, a)
        found += sum(next(nats) >= np.log(a) for _ in range(days))
    return found


def delay(truth: Truth, weather: float, *, streams: int, most: int = 200, a: float = 180.0, seed: int = 1) -> float:
    """Median number of days until labels that come as `truth` has it raise an alarm; `most` where it takes longer."""
    rng, found = np.random.default_rng(seed), list[int]()
    for stream in range(streams):
        if stream % STREAMS_EACH == 0:
            risk = reference(rng, unchanged, weather)
        nats = evidence(risk, rng, truth, weather, a)
        found.append(next((at + 1 for at in range(most) if next(nats) >= np.log(a)), most))
    return float(np.median(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=400)
    streams = parser.parse_args().streams
    print("| reference and rows | weather | alarms | allowed on average |\n|---|---|---|---|")
    truths: tuple[Truth, ...] = unchanged, too_sure
    for truth, weather in product(truths, WEATHERS):
        said = getattr(truth, "__name__", "").replace("_", " ")
        print(f"| {said} | {weather} | {false_alarms(truth, weather, streams=streams)} | {streams * 80 / 20:.0f} |")
    print("\n| labels are 1 | " + " | ".join(f"weather {weather}" for weather in WEATHERS) + " |\n|---|---|---|---|")
    for name, change in CHANGES.items():
        days = (delay(change, weather, streams=streams // 4) for weather in WEATHERS)
        print(f"| {name} | " + " | ".join(f"{value:.0f}" if value < 200 else "over 200" for value in days) + " |")


if __name__ == "__main__":
    main()
