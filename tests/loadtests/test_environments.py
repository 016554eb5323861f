"""Environments are made once, made anew for another list, and never half."""

from pathlib import Path

import pytest

from loadtests.environments import MARK, NotInstalled, environment, folder_of, versions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gaugeway-bench"


def test_an_environment_that_was_interrupted_is_made_again_and_then_kept(tmp_path: Path, cache: Path) -> None:
    requirements = tmp_path / "peer.txt"
    requirements.write_text("# nothing\n")
    folder = folder_of(requirements)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("half")
    python = environment(requirements)
    assert python.is_relative_to(cache) and "pip" in versions(python, ("pip",))
    (folder / "kept").touch()
    assert environment(requirements) == python
    assert (folder / "kept").exists()


def test_another_list_has_another_environment(tmp_path: Path) -> None:
    requirements = tmp_path / "peer.txt"
    requirements.write_text("a==1\n")
    first = folder_of(requirements)
    requirements.write_text("a==2\n")
    assert folder_of(requirements) != first


def test_a_failure_is_told_and_leaves_nothing_that_counts_as_made(tmp_path: Path) -> None:
    requirements = tmp_path / "peer.txt"
    requirements.write_text(f"{tmp_path}/no-such-package.whl\n")
    with pytest.raises(NotInstalled, match=r"no-such-package.whl.*all of it: "):
        environment(requirements)
    assert not (folder_of(requirements) / MARK).exists()
