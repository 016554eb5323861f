"""What each scenario is, as a table."""

from dataclasses import dataclass

from loadtests.scenarios import shapes
from loadtests.scenarios.shapes import Shape


@dataclass(frozen=True, slots=True)
class Scenario:
    """`days` are the flights that are sent: from the first to before the second, ISO dates.

    `speed` is event seconds a second, by which labels arrive; None: the days fill the run, in order of departure.
    """

    what: str
    shape: Shape = shapes.steady
    days: tuple[str, str] = ("2013-06-01", "2013-07-01")  # the demo replays April and May
    speed: float | None = 3600.0
    labels: bool = True
    sticky: bool = False  # travellers that must stay on one version, each with several keys
    sheds_allowed: bool = False  # 429 and 503 with Retry-After are an answer, not a failure


SCENARIOS = {
    "steady": Scenario("a steady day: the same load throughout; labels when the flights have landed"),
    "diurnal": Scenario("the load of a day: users follow the departures by hour", shapes.diurnal, labels=False),
    "spike": Scenario(
        f"a quiet load, {shapes.SPIKE_FACTOR:g} times it for a sixth of the run, then quiet again;"
        " refusals with Retry-After are counted apart",
        shapes.spike,
        labels=False,
        sheds_allowed=True,
    ),
    "experiment": Scenario("A/B: every traveller keeps the version it first got; labels for both", sticky=True),
    "drift": Scenario(
        "a drifting month: July's flights in order, a month in a run, to models that know the winter; labels",
        days=("2013-07-01", "2013-08-01"),
        speed=None,
    ),
}
