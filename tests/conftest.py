"""Marks tests by their folder and runs the fast ones first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.conformance import models as conformance
from tests.gateway import Gateway, running

SLOW = ("conformance", "integration", "faults")  # in this order, after all others


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := _slow_folder(item.path)) is not None:
            item.add_marker(folder)
    items.sort(key=lambda item: _rank(item.path))  # stable: the order within a folder stands


def _slow_folder(path: Path) -> str | None:
    return next((name for name in SLOW if name in path.parts), None)


def _rank(path: Path) -> int:
    folder = _slow_folder(path)
    return SLOW.index(folder) + 1 if folder else 0


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway on a real Ray for all tests that only ask it; those that break it start their own."""
    served = {name: build() for name, build in conformance.MODELS.items()}
    with running(tmp_path_factory.mktemp("gateway"), {**served, "linear": models.linear()}) as up:
        yield up


@pytest.fixture(scope="session")
def gaugeway_url(gateway: Gateway) -> str:
    return gateway.url
