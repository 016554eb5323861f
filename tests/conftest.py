"""Marks tests by their folder and runs the fast ones first.

With several test processes (``-n``) those that start gateways share two of them, one gateway after the other in each:
a start is mostly waiting. Faults, whose tests measure time, and the conformance suite are in one, the rest in another.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.conformance import models as conformance
from tests.gateway import Gateway, running
from tests.postgres import Server, programs
from tests.postgres import running as postgresql

HERE = Path(__file__).parent
SLOW = ("conformance", "integration", "faults")  # in this order, after all others
GROUPS = {"conformance": "conformance and faults", "faults": "conformance and faults", "integration": "integration"}


def pytest_itemcollected(item: pytest.Item) -> None:
    if (folder := _folder(item.path)) in SLOW:
        item.add_marker(folder)
        item.add_marker(pytest.mark.xdist_group(GROUPS[folder]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _rank(item.path))  # stable: the order within a folder stands


def _folder(path: Path) -> str:
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def _rank(path: Path) -> int:
    folder = _folder(path)
    return SLOW.index(folder) + 1 if folder in SLOW else 0


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
