"""`gaugeway monitor` beside a real sidecar: what it tells, explains and orders, and what it says when it cannot."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from monitors.inquiry import Inquiry, reply
from serving import inquiring
from serving.cli import app
from serving.config import Config, load
from serving.errors import BadRequest, GaugewayError, NotReady, UnknownVersion
from tests.monitors.test_aggregator import run as judged
from tests.monitors.test_sidecar import DAY, Process, append, wait
from tests.monitors.traffic import FEATURES, START, profile, record, stream

TOML = """
data_dir = "{folder}"
[monitors]
event_time = "request"
[registry]
database = "sqlite:///{folder}/registry.db"
artifacts = "file://{folder}/artifacts"
"""


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Both versions of a model are in alarm since half-way."""
    folder = tmp_path_factory.mktemp("drifting")
    process = Process(folder)
    (folder / "gaugeway.toml").write_text(TOML.format(folder=folder))
    records, _ = stream(600, spacing_s=120, shift=3.0)
    last = record(["last"], records[-1].inputs["x"].array(), [START + 20 * DAY])
    append([process.ring()], [*records, last])
    process.start()
    try:
        wait(lambda: process.done([*records, last]) and states(process) == {"alarm"})
        yield process
    finally:
        process.end(signal.SIGKILL)


def states(process: Process) -> set[str]:
    return {version["state"] for version in process.verdicts()["models"]["m"].values()}


def config(process: Process) -> Config:
    return load(process.config.data / "gaugeway.toml")


def run(process: Process, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments, "--config", str(process.config.data / "gaugeway.toml")])


def refused(process: Process, *arguments: str) -> str:
    """The sentence; `serving.cli.main` prints it and exits with 1."""
    found = run(process, *arguments).exception
    assert isinstance(found, GaugewayError)
    return str(found)


def test_the_alarm_is_explained_by_its_features(drifting: Process) -> None:
    found = inquiring.explanation(config(drifting), "m", "1")
    assert found["state"] == "alarm"
    assert {"_all", "x0", "x1"} <= {alarm["name"] for alarm in found["alarms"]}
    (x0,) = (one for one in found["features"] if one["feature"] == "x0")
    assert x0["direction"] == "higher" and x0["median"][1]["value"] > x0["median"][0]["value"]
    middle = START + 300 * 120
    assert abs(x0["onset"][0] - middle) <= 6 * 3600  # a block
    assert x0["text"].startswith("x0 is higher than in the reference since about ")


def test_harm_is_told_first_and_since_when_the_loss_rose() -> None:
    records, labels = stream(4000, spacing_s=120, shift=1.5)
    verdicts = {("m", version): one for version, one in judged(1, records, labels, every=400).items()}
    found = reply(verdicts, Inquiry("m", "1"))
    harm, *others = found.alarms
    assert (harm.name, harm.severity) == ("_risk", "page")
    assert harm.text.startswith("Harm since the block that ended ")
    assert "It rose about Thu 7 Feb 2013" in harm.text
    assert found.rise is not None and found.rise.now > found.rise.reference + 0.2
    assert harm.text.endswith(found.rise.text) and "comes from rows with x0 " in harm.text
    one = reply(verdicts, Inquiry("m", "1", "x0")).rise
    assert one is not None and [carrier.feature for carrier in one.carriers] == ["x0"]
    assert {"_all", "x0"} <= {alarm.name for alarm in others}


def test_an_alarm_whose_blocks_are_gone_is_told_without_an_explanation() -> None:
    """As in the state of an earlier release, which kept blocks without their ends."""
    records, labels = stream(4000, spacing_s=120, shift=1.5)
    found = judged(1, records, labels, every=400)["1"]
    bare = msgspec.structs.replace(found.past["x0"], counts=[], ends=[], log_e=[])
    told = reply({("m", "1"): msgspec.structs.replace(found, past={**found.past, "x0": bare})}, Inquiry("m", "1"))
    assert {one.feature for one in told.features} == {name for name, past in found.past.items() if past.since} - {"x0"}
    (alarm,) = (alarm for alarm in told.alarms if alarm.name == "x0")
    assert alarm.text.endswith("; nothing explains it: no block with a value of it is kept.")


def test_every_node_explains(drifting: Process, tmp_path: Path) -> None:
    other = Process(tmp_path, drifting.config.data)
    other.start()
    try:
        wait(lambda: other.get("/verdicts").status_code == 200)
        assert inquiring.explanation(other.config, "m", "1") == inquiring.explanation(drifting.config, "m", "1")
        with pytest.raises(GaugewayError, match="model 'm' has no version '7'; it has '1', '2'"):
            inquiring.explanation(other.config, "m", "7")
    finally:
        other.end(signal.SIGTERM)


def test_values_are_told_on_the_socket_only(drifting: Process) -> None:
    port = (drifting.config.run_dir / "monitors.port").read_text()
    assert httpx.get(f"http://127.0.0.1:{port}/explanation?model=m&version=1").status_code == 404


def test_a_request_that_names_no_version_is_refused(drifting: Process) -> None:
    transport = httpx.HTTPTransport(uds=str(drifting.config.socket_dir / "monitors.sock"))
    with httpx.Client(transport=transport) as client:
        answer = client.get("http://sidecar/explanation?model=m")
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("Object missing required field `version`")


def test_status_says_state_alarms_and_the_worst_features(drifting: Process) -> None:
    document = json.loads(run(drifting, "status", "--json").output)
    assert document["models"]["m"]["1"]["state"] == "alarm"
    shown = run(drifting, "status")
    assert shown.exit_code == 0
    assert "alarm" in shown.output and "x0" in shown.output and "2013-02-0" in shown.output


def test_explain_prints_sentences_json_and_a_picture(drifting: Process, tmp_path: Path) -> None:
    text = run(drifting, "explain", "m", "1").output
    assert "Drift of the whole since the block that ended " in text
    assert "x0 is higher than in the reference" in text
    one = run(drifting, "explain", "m", "1", "x1", "--plot", str(tmp_path / "x1.svg"), "--json")
    assert [found["feature"] for found in json.loads(one.output)["features"]] == ["x1"]
    assert (tmp_path / "x1.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("explain", "z", "1"), "unknown model 'z'; there are 'm'"),
        (("explain", "m", "7"), "model 'm' has no version '7'; it has '1', '2'"),
        (("explain", "m", "1", "y"), "version '1' of 'm' has no feature 'y'; it has '_prediction', 'x0', 'x1',"),
        (("reset", "m", "7", "--reason", "x"), "model 'm' has no version '7'; it has '1', '2'"),
        (("reset", "m", "1", "--reason", " "), "--reason must say why: it is kept with the order"),
        (("rebase", "m", "7", "--from-live", "--reason", "x"), "model 'm' has no version '7'; it has '1', '2'"),
        (
            ("rebase", "m", "1", "--reason", "x"),
            "say which rows, in one way: --from-live, --reference FILE or --captured",
        ),
        (("rebase", "m", "1", "--reason", "x", "--from-live", "--captured"), "say which rows, in one way: "),
        (("rebase", "m", "1", "--reason", "x", "--captured", "--time", "at"), "--time names a column of the rows in"),
        (
            ("rebase", "m", "1", "--reason", "x", "--from-live", "--since", "2026-01-01"),
            "--since and --until choose among",
        ),
        (("rebase", "m", "1", "--reason", "x", "--captured"), "nothing is captured of model 'm' in that selection"),
    ],
)
def test_what_is_not_there_is_said(drifting: Process, arguments: tuple[str, ...], sentence: str) -> None:
    assert refused(drifting, *arguments).startswith(sentence)


def test_a_reset_ends_the_alarm_of_its_version_outlives_a_restart_and_is_kept(drifting: Process) -> None:
    done = run(drifting, "reset", "m", "2", "--reason", "the sender is repaired", "--json")
    said: dict[str, Any] = json.loads(done.output)
    assert said["effect"] == "in effect" and said["why"] == "the sender is repaired" and said["by"]

    def versions() -> dict[str, Any]:
        found: dict[str, Any] = drifting.verdicts()["models"]["m"]
        return found

    assert versions()["1"]["state"] == "alarm"
    assert versions()["2"]["state"] != "alarm" and versions()["2"]["drift"]["_all"]["log_e"] == 0.0
    before = versions()["2"]
    drifting.end(signal.SIGKILL)
    drifting.start()
    assert versions()["2"]["order"] == said["order"] == before["order"]
    assert versions()["2"]["drift"] == before["drift"]
    assert refused(drifting, "explain", "m", "2").startswith("nothing to explain: no alarm is on for version '2' of")


def test_a_rebase_says_which_features_keep_their_reference(drifting: Process) -> None:
    said = json.loads(run(drifting, "rebase", "m", "1", "--from-live", "--reason", "it stays so", "--json").output)
    assert (said["kind"], said["effect"]) == ("rebase", "in effect")
    assert any("x0 keeps its reference: " in note and " are needed" in note for note in said["notes"])
    assert drifting.verdicts()["models"]["m"]["1"]["state"] != "alarm"


def test_a_reference_that_an_order_brings_is_taken_up_and_outlives_a_restart(tmp_path: Path) -> None:
    process, spring = Process(tmp_path), profile(seed=2, shift=3.0)
    (tmp_path / "gaugeway.toml").write_text(TOML.format(folder=tmp_path))
    rows = np.random.default_rng(5).normal(3.0, size=(401, 2, FEATURES)).astype(np.float32)
    first, *later = (record([f"s{k}"], x, [START + DAY * (k > 0) + 120 * k], version="2") for k, x in enumerate(rows))
    ring = process.ring()

    def found() -> dict[str, Any]:
        version: dict[str, Any] = process.verdicts()["models"]["m"]["2"]
        return version

    append([ring], [first])
    process.start()
    try:
        wait(lambda: process.done([first]))
        said = inquiring.order(config(process), "rebase", "m", "2", "?", reference=spring.encode(), rows="4000 rows")
        wait(lambda: found()["order"] == said["order"])
        assert f"the reference are 4000 rows (order {said['order']})" in found()["notes"]
        process.end(signal.SIGKILL)
        process.start()
        append([ring], [*later, record(["end"], rows[0], [START + 60 * DAY])])
        wait(lambda: found()["drift"]["_all"]["blocks"] > 1)
        assert not found()["drift"]["_all"]["alarm"] and found()["order"] == said["order"]
        assert process.verdicts()["dropped_rows"]["superseded"] == 0
    finally:
        process.end(signal.SIGKILL)


def test_without_a_sidecar_nothing_is_told_and_a_reset_is_stored(tmp_path: Path) -> None:
    process = Process(tmp_path)
    (tmp_path / "gaugeway.toml").write_text(TOML.format(folder=tmp_path))
    settled = config(process)
    with pytest.raises(NotReady, match=r"no sidecar answers at .*monitors.sock: .*; `gaugeway status` says what runs"):
        inquiring.verdicts(settled)
    stored = inquiring.order(settled, "reset", "m", "1", "for later")
    assert stored["effect"] == "stored; the monitors follow when they run"
    assert inquiring.order(settled, "reset", "m", "1", "again")["order"] > stored["order"]
    with pytest.raises(UnknownVersion):
        inquiring.order(settled, "reset", "m", "7", "no such one")


def test_monitors_that_are_off_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "gaugeway.toml"
    path.write_text(f'data_dir = "{tmp_path}"\n[monitors]\nenabled = false\n')
    with pytest.raises(BadRequest, match="the monitors are switched off"):
        inquiring.verdicts(load(path))


@pytest.mark.parametrize("command", ["status", "explain", "reset", "rebase"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: gaugeway monitor {command}" in CliRunner().invoke(app, ["monitor", command, "--help"]).output
