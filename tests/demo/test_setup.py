import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from monitors import reference
from serving.config import load
from serving.demo import flights
from serving.demo.setup import WEIGHTS, configure, fill, home, train, write_toml
from serving.manifest import REFERENCE_FILE
from serving.repository import Repository
from serving.up import with_ports

QUIET = Console(quiet=True)


def test_both_versions_are_published_with_profiles_and_a_second_time_from_what_was_kept(
    tmp_path: Path, flights_file: Path
) -> None:
    traffic = flights.load(flights.source(), flights_file)
    trained = train(traffic, tmp_path, QUIET)
    assert train(traffic, tmp_path, QUIET) == trained
    config = configure(tmp_path / "gateway")
    fill(config, trained[:1], QUIET)
    (config.data / "of-the-first").touch()
    fill(config, trained, QUIET)  # begins anew
    assert not (config.data / "of-the-first").exists()
    repository = Repository.of(config)
    assert [manifest.version for manifest in repository.manifests("flights")] == list(WEIGHTS)
    for manifest in repository.manifests("flights"):
        assert manifest.rows_independent
        assert [feature.name for feature in manifest.features] == list(flights.FEATURES)
        categorical = [feature.name for feature in manifest.features if feature.kind == "categorical"]
        assert categorical == list(flights.CATEGORICAL)
        profile = reference.decode(repository.read(manifest, REFERENCE_FILE))
        assert profile.risk is not None
        assert profile.risk.mean == pytest.approx(float(manifest.lineage["held_out_brier"]), abs=1e-4)
        assert (config.data / f"notes-{manifest.version}.txt").read_text().startswith("weekday")


def test_a_port_in_use_is_replaced_by_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as taken:
        wanted = configure(tmp_path).gateway.port
        if wanted:  # else it is in use already
            taken.bind(("127.0.0.1", wanted))
        assert configure(tmp_path).gateway.port == 0
        assert with_ports(configure(tmp_path)).gateway.port not in (0, wanted)


def test_another_terminal_can_find_the_gateway(tmp_path: Path) -> None:
    config = with_ports(configure(tmp_path / "with space"))
    write_toml(config, tmp_path / "gaugeway.toml")
    found = load(tmp_path / "gaugeway.toml", environ={})
    assert (found.data, found.gateway.port, found.admin.port) == (config.data, config.gateway.port, config.admin.port)
    assert found.metrics == config.metrics


def test_the_folder_is_the_one_given(tmp_path: Path) -> None:
    assert home(tmp_path) == tmp_path.resolve()
    assert home(None).parts[-2:] == ("gaugeway", "demo")
    assert os.path.isabs(home(Path("relative")))
