from collections.abc import Iterator

import pytest

from tests.integration.demonstration import Done, demonstrated


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One demo for all tests that look at what it did."""
    with demonstrated(tmp_path_factory.mktemp("demo")) as done:
        yield done
