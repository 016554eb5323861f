"""`gaugeway label` as a user types it, on a gateway in this process: what it says, and how it exits."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import config
from serving.cli import app
from serving.errors import BadRequest, NotReady
from tests.edge import Listening
from tests.label_store import Store, labelling, lines, names


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Listening, Store]]:
    with labelling(tmp_path) as up:
        file = tmp_path / "gaugeway.toml"
        file.write_text(f'data_dir = "{tmp_path}"\n')
        run = config.load(file, environ={}).run_dir
        run.mkdir(parents=True, exist_ok=True)
        running = {"pid": os.getpid(), "gateway": f"http://127.0.0.1:{up[0].port}"}
        (run / "up.json").write_text(json.dumps(running))
        yield up


def label(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output. An error of ours is raised, and becomes one sentence in `main`."""
    command = ["label", "m", *arguments, "--config", str(folder / "gaugeway.toml")]
    done = CliRunner().invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_a_file_that_is_taken_whole_exits_with_0(tmp_path: Path, site: tuple[Listening, Store]) -> None:
    file = tmp_path / "labels.ndjson.gz"
    file.write_bytes(gzip.compress(lines(1000)))
    assert label(tmp_path, str(file)) == (0, "1000 joined, 0 parked, 0 unknown, 0 doubled, 0 conflicting, 0 late\n")
    code, text = label(tmp_path, str(file), "--json")
    assert (code, json.loads(text)["doubled"]) == (0, 1000)
    assert site[1].ids == names(1000) * 2


def test_refused_labels_are_named_and_exit_with_1(tmp_path: Path, site: tuple[Listening, Store]) -> None:
    file = tmp_path / "labels.ndjson"
    file.write_bytes(b"\n" + lines(1) + b'{"id": "a", "label": 9}\n' * 1003)
    code, text = label(tmp_path, str(file))
    told = text.splitlines()
    assert code == 1 and told[1] == "  refused, line 3: label must be 0 or 1"
    assert len(told) == 22 and told[-1] == "  and 983 more"


def test_what_cannot_be_sent_is_told_at_once(tmp_path: Path, site: tuple[Listening, Store]) -> None:
    with pytest.raises(BadRequest, match="cannot read"):
        label(tmp_path, str(tmp_path / "nothing"))
    (tmp_path / "labels.ndjson").write_bytes(lines(1))
    (config.load(tmp_path / "gaugeway.toml", environ={}).run_dir / "up.json").unlink()
    with pytest.raises(NotReady, match="no gateway runs"):
        label(tmp_path, str(tmp_path / "labels.ndjson"))
