"""``locust -f loadtests/scenarios/spike.py --host http://127.0.0.1:8080``; see `SCENARIOS["spike"]`."""

from loadtests.scenarios.client import Load, Traveller
from loadtests.scenarios.scenario import SCENARIOS


class SpikeLoad(Load):
    pass


class SpikeTraveller(Traveller):
    scenario = SCENARIOS["spike"]
