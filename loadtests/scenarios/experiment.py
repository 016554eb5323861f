"""``locust -f loadtests/scenarios/experiment.py --host http://127.0.0.1:8080``; see `SCENARIOS["experiment"]`."""

from loadtests.scenarios.client import Load, Traveller
from loadtests.scenarios.scenario import SCENARIOS


class ExperimentLoad(Load):
    pass


class ExperimentTraveller(Traveller):
    scenario = SCENARIOS["experiment"]
