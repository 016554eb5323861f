"""``locust -f loadtests/scenarios/steady.py --host http://127.0.0.1:8080``; see `SCENARIOS["steady"]`."""

from loadtests.scenarios.client import Load, Traveller
from loadtests.scenarios.scenario import SCENARIOS


class SteadyLoad(Load):
    pass


class SteadyTraveller(Traveller):
    scenario = SCENARIOS["steady"]
