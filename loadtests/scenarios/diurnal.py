"""``locust -f loadtests/scenarios/diurnal.py --host http://127.0.0.1:8080``; see `SCENARIOS["diurnal"]`."""

from loadtests.scenarios.client import Load, Traveller
from loadtests.scenarios.scenario import SCENARIOS


class DiurnalLoad(Load):
    pass


class DiurnalTraveller(Traveller):
    scenario = SCENARIOS["diurnal"]
