"""``locust -f loadtests/scenarios/drift.py --host http://127.0.0.1:8080``; see `SCENARIOS["drift"]`."""

from loadtests.scenarios.client import Load, Traveller
from loadtests.scenarios.scenario import SCENARIOS


class DriftLoad(Load):
    pass


class DriftTraveller(Traveller):
    scenario = SCENARIOS["drift"]
