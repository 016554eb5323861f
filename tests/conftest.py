"""Marks tests by their folder and runs the fast ones first."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLOW = ("conformance", "integration", "faults")  # in this order, after all others


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := _folder(item.path)) in SLOW:
            item.add_marker(folder)
    items.sort(key=lambda item: _rank(item.path))  # stable: the order within a folder stands


def _folder(path: Path) -> str:
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def _rank(path: Path) -> int:
    folder = _folder(path)
    return SLOW.index(folder) + 1 if folder in SLOW else 0
