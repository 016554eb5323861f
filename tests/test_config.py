import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import config
from serving.config import Config, Model, Replicas, Resources, Shadow, Version
from serving.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs"

EXAMPLE = """
[gateway]
port = 9000

[models.flights]
sticky = "header:x-user-id"
weights = { "1" = 0.9, "2" = 0.1 }
shadows = [ { version = "3", fraction = 0.25 } ]

[models.flights.versions."2"]
resources = { cpu = 1, gpu = 0 }
replicas = { min = 1, max = 4, target_busy_ratio = 0.7 }
max_batch_rows = 64
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "gaugeway.toml"
    path.write_text(text)
    return path


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        config.parse(tree)
    return str(refused.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    read = config.load(written(tmp_path, EXAMPLE), environ={})
    flights = read.models["flights"]
    assert read.gateway.port == 9000
    assert flights.weights == {"1": 0.9, "2": 0.1}
    assert flights.shadows == (Shadow(version="3", fraction=0.25),)
    assert flights.version("2").replicas == Replicas(min=1, max=4)
    assert flights.version("2").max_batch_rows == 64
    assert flights.version("1") == Version()


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load(environ={}) == Config()


def test_the_file_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, EXAMPLE)
    monkeypatch.chdir(tmp_path)
    assert config.load(environ={}).gateway.port == 9000


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"models": {"m": {"versions": {"1": {"replicas": {"min": 3}}}}}},
        {"models": {"m": {"versions": {"1": {"pools": [{"gpu": 0.25, "min": 0, "max": 2}, {"cpu": 1}]}}}}},
    ],
)
def test_a_dump_restores_to_the_same_tree(tree: dict[str, Any]) -> None:
    parsed = config.parse(tree)
    assert config.restore(config.dump(parsed)) == parsed


@given(port=st.integers(0, 65535), workers=st.integers(1, 64), weight=st.floats(0, 1))
def test_a_dump_restores_for_any_values(port: int, workers: int, weight: float) -> None:
    gateway = {"port": port, "workers": workers}
    parsed = config.parse({"gateway": gateway, "models": {"m": {"weights": {"1": weight, "2": 1 - weight}}}})
    assert config.restore(config.dump(parsed)) == parsed


def test_the_environment_is_stronger_than_the_file(tmp_path: Path) -> None:
    environ = {
        "GAUGEWAY_GATEWAY__PORT": "9100",
        "GAUGEWAY_GATEWAY__HOST": "0.0.0.0",
        "GAUGEWAY_MONITORS__ENABLED": "false",
        "GAUGEWAY_DATA_DIR": "123",
        "GAUGEWAY_UNRELATED": "x",
        "PATH": "/bin",
    }
    read = config.load(written(tmp_path, EXAMPLE), environ)
    assert (read.gateway.port, read.gateway.host) == (9100, "0.0.0.0")
    assert read.monitors.enabled is False
    assert read.data_dir == "123"
    assert "flights" in read.models


def test_an_error_says_where_the_value_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, EXAMPLE)
    with pytest.raises(ConfigError, match=re.escape(f"{path} and GAUGEWAY_GATEWAY__PORT: Expected `int`, got `str`")):
        config.load(path, {"GAUGEWAY_GATEWAY__PORT": "many"})
    with pytest.raises(ConfigError, match=r"GAUGEWAY_GATEWAY__PROT.*unknown field `prot`.*did you mean `port`\?"):
        config.load(path, {"GAUGEWAY_GATEWAY__PROT": "1"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.toml: No such file"):
        config.load(tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match=r"gaugeway\.toml is not TOML: .*Invalid value"):
        config.load(written(tmp_path, "gateway ="), {})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"gatway": {}}, "unknown field `gatway`; did you mean `gateway`?"),
        ({"gateway": {"wrokers": 2}}, "unknown field `wrokers` - at `$.gateway`; did you mean `workers`?"),
        (
            {"models": {"ok": {}, "flights": {"wieghts": {}}}},
            "unknown field `wieghts` - at `$.models.flights`; did you mean `weights`?",
        ),
        (
            {"models": {"ok": {}, "flights": {"versions": {"1": {}, "2": {"replicas": {"mn": 1}}}}}},
            "unknown field `mn` - at `$.models.flights.versions.2.replicas`; did you mean `min`?",
        ),
        (
            {"models": {"flights": {"shadows": [{"version": "1"}, {"version": "2", "frction": 1}]}}},
            "unknown field `frction` - at `$.models.flights.shadows[1]`; did you mean `fraction`?",
        ),
        (
            {"models": {"flights": {"weights": {"1": 0.5, "2": 1.5}}}},
            "Expected `float` <= 1.0 - at `$.models.flights.weights.2`",
        ),
        (
            {"models": {"flights": {"shadows": [{}]}}},
            "missing required field `version` - at `$.models.flights.shadows[0]`",
        ),
        ({"models": {"m": {"capture": {"redact": {"a": "mask"}}}}}, "- at `$.models.m.capture.redact"),
        ({"models": {"m": {"capture": {"enabled": True, "sample": 0}}}}, "- at `$.models.m.capture.sample`"),
        ({"models": {"m": {"capture": {"features": ["a"]}}}}, "nothing is captured: set `enabled`"),
        ({"models": {"flights": []}}, "Expected `object`, got `array` - at `$.models.flights`"),
        ({"gateway": {"xyzzy": 1}}, "unknown field `xyzzy` - at `$.gateway`"),
    ],
)
def test_an_unknown_or_wrong_key_is_named_with_its_path(tree: dict[str, Any], said: str) -> None:
    assert said in refusal(tree)


def test_no_suggestion_for_what_resembles_nothing() -> None:
    assert "did you mean" not in refusal({"gateway": {"xyzzy": 1}})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("gateway", "port", 65536),
        ("gateway", "port", -1),
        ("gateway", "workers", 0),
        ("gateway", "deadline_s", 0),
        ("gateway", "retries", 4),
        ("gateway", "strict_readiness", "yes"),
        ("monitors", "event_time", "later"),
        ("monitors", "min_coverage", 1.01),
        ("monitors", "ring_bytes", 1000),
        ("monitors", "lateness_s", -1),
        ("monitors", "slot_s", float("nan")),
        ("monitors", "slot_s", float("inf")),
        ("ray", "cpus", 0),
    ],
)
def test_a_value_out_of_range_is_refused(section: str, key: str, value: Any) -> None:
    assert f"`$.{section}.{key}`" in refusal({section: {key: value}})


def test_every_default_is_in_range() -> None:
    assert config.parse(msgspec.to_builtins(Config())) == Config()


def test_replicas_max_is_min_where_it_is_not_said() -> None:
    assert Replicas(min=2).max == 2
    assert Replicas(min=0).max == 1
    assert Replicas().max == 1


def test_replicas_min_above_max_is_refused() -> None:
    tree = {"models": {"m": {"versions": {"1": {"replicas": {"min": 3, "max": 2}}}}}}
    assert "`min` is 3, above `max` 2 - at `$.models.m.versions.1.replicas`" in refusal(tree)


def test_weights_must_add_up_to_one() -> None:
    assert "weights must add up to 1, got 0.9" in refusal({"models": {"m": {"weights": {"1": 0.4, "2": 0.5}}}})


@pytest.mark.parametrize("name", ["Flights", "../etc", "", "-a", "a" * 64, "a/b"])
def test_a_model_name_that_is_none_is_refused(name: str) -> None:
    assert "must match" in refusal({"models": {name: {}}})


@pytest.mark.parametrize("sticky", ["user", "header:", "header:a b", "body:id"])
def test_a_sticky_key_that_is_none_is_refused(sticky: str) -> None:
    assert "`$.models.m.sticky`" in refusal({"models": {"m": {"sticky": sticky}}})


def test_a_block_is_no_shorter_than_a_slot() -> None:
    assert "block_s is 30, below slot_s 60" in refusal({"monitors": {"block_s": 30}})


def test_paths_and_urls_follow_the_data_folder(tmp_path: Path) -> None:
    here = Config(data_dir=str(tmp_path))
    assert here.run_dir == tmp_path / "run"
    assert here.database_url == f"sqlite:///{tmp_path / 'registry.db'}"
    assert here.artifacts_url == (tmp_path / "artifacts").as_uri()
    assert len(str(here.socket_dir / "replicas" / ("x" * 40))) < 108
    assert here.socket_dir != Config(data_dir=str(tmp_path / "other")).socket_dir


def test_a_model_without_weights_is_legal() -> None:
    assert config.parse({"models": {"m": {}}}).models["m"] == Model()


def _version(**keys: Any) -> dict[str, Any]:
    return {"models": {"m": {"versions": {"1": keys}}}}


def test_resources_and_replicas_are_short_for_one_pool() -> None:
    short = config.parse(_version(resources={"cpu": 2, "threads": 2}, replicas={"min": 2, "max": 3}))
    long = config.parse(_version(pools=[{"cpu": 2, "threads": 2, "min": 2, "max": 3}]))
    assert short.models["m"].version("1").by_pool == long.models["m"].version("1").by_pool
    assert list(Version().by_pool) == ["cpu"] and Version().by_pool["cpu"].resources == Resources()


def test_pools_are_called_by_what_they_have_or_by_their_name() -> None:
    parsed = config.parse(
        _version(pools=[{"gpu": 0.5}, {"cpu": 1}, {"name": "large", "cpu": 4, "max_batch_rows": 512}])
    )
    pools = parsed.models["m"].version("1").by_pool
    assert list(pools) == ["gpu", "cpu", "large"]
    assert [pool.max_batch_rows for pool in pools.values()] == [0, 0, 512]


@pytest.mark.parametrize("beside", [{"resources": {"cpu": 1}}, {"replicas": {"min": 2}}])
def test_pools_beside_what_they_stand_for_are_refused(beside: dict[str, Any]) -> None:
    said = refusal(_version(pools=[{"cpu": 1}], **beside))
    assert "cannot stand beside them - at `$.models.m.versions.1`" in said


def test_two_pools_of_one_name_are_refused() -> None:
    said = refusal(_version(pools=[{"cpu": 1}, {"cpu": 2}]))
    assert "two pools are called 'cpu': give each a `name` - at `$.models.m.versions.1`" in said
    assert "at `$.models.m.versions.1.pools[0]`" in refusal(_version(pools=[{"min": 3, "max": 2}]))
    assert "did you mean `threads`?" in refusal(_version(pools=[{"thread": 3}]))
