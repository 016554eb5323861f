"""Marks tests by their folder and runs the fast ones first."""

from pathlib import Path

import pytest

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
