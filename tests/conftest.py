"""Marks tests by their folder, and says which of them share a process and what comes first.

With several test processes (``-n``) the tests of a file are in one, so that what a module makes is made once. Tests
that start gateways are in three groups, which come first since a start is mostly waiting: faults, whose tests measure
time; all that ask the session's gateway, and so start one; and the others. In one process they come last.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.demo import flights
from tests import models
from tests.conformance import models as conformance
from tests.gateway import Gateway, running
from tests.postgres import Server, programs
from tests.postgres import running as postgresql

HERE = Path(__file__).parent
SLOW = ("conformance", "integration", "faults")  # in this order, after all others
GROUPS = {"faults": "faults", "integration": "integration", "conformance": "one gateway"}  # first of several processes


def pytest_itemcollected(item: pytest.Item) -> None:
    if (folder := _folder(item.path)) in SLOW:
        item.add_marker(folder)
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(GROUPS.get(folder, item.path.name)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: the order within a folder or a group stands."""
    items.sort(key=_turn if "PYTEST_XDIST_WORKER" in os.environ else _rank)


def _folder(path: Path) -> str:
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def _rank(item: pytest.Item) -> int:
    folder = _folder(item.path)
    return SLOW.index(folder) + 1 if folder in SLOW else 0


def _turn(item: pytest.Item) -> int:
    group, known = item.get_closest_marker("xdist_group"), [*GROUPS.values()]
    return known.index(group.args[0]) if group and group.args[0] in known else len(known)


@pytest.fixture(scope="session")
def flights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All flights of the demo as `flights.load` keeps them: reading the source takes seconds."""
    path = tmp_path_factory.mktemp("source") / "flights.parquet"
    flights.load(flights.source(), path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL for all tests of one process; each makes itself a database in it."""
    if programs() is None and "CI" not in os.environ:
        pytest.skip("there is no initdb: apt-get install postgresql")
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway on a real Ray for all tests that only ask it; those that break it start their own."""
    served = {name: build() for name, build in conformance.MODELS.items()}
    with running(tmp_path_factory.mktemp("gateway"), {**served, "linear": models.linear()}) as up:
        yield up


@pytest.fixture(scope="session")
def gaugeway_url(gateway: Gateway) -> str:
    return gateway.url
