import subprocess
import sys
from pathlib import Path

import pytest

from dashboards.compiling import HERE, OUT, compiled
from serving.errors import ConfigError


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dashboards", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, timeout=60)


def test_what_is_committed_is_what_the_sources_compile_to() -> None:
    """After a change: `make dashboards`."""
    assert {path.name: path.read_text() for path in OUT.iterdir()} == compiled()


def test_the_sources_are_formatted() -> None:
    """After a change: `jsonnetfmt -i dashboards/*.libsonnet dashboards/*/*.libsonnet`."""
    sources = sorted(HERE.rglob("*.libsonnet"))
    assert sources and subprocess.run(["jsonnetfmt", "--test", *sources], timeout=60).returncode == 0


def test_windows_may_be_others() -> None:
    rules = compiled({"burn_windows": [{"long": "2h", "short": "10m", "factor": 9, "hold": "5m", "severity": "page"}]})
    assert "rate2h" in rules["alerts.yaml"] and "gaugeway:budget_burn:rate1h" in rules["rules.yaml"]


def test_a_setting_reaches_every_link(tmp_path: Path) -> None:
    done = run("--set", "grafana_url=https://grafana.example", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(path) for path in sorted(tmp_path.iterdir())]
    alerts = (tmp_path / "alerts.yaml").read_text()
    assert alerts.count("https://grafana.example/d/gaugeway-") == (OUT / "alerts.yaml").read_text().count(
        "/d/gaugeway-"
    )


def test_models_may_have_objectives_of_their_own() -> None:
    strict = {"name": "fraud", "models": "fraud", "availability": 0.9999, "in_time": 0.95, "latency_s": 1}
    default = {"name": "default", "models": ".+", "availability": 0.999, "in_time": 0.99, "latency_s": 0.25}
    rules = compiled({"objectives": [strict, default]})["rules.yaml"]
    assert 'model=~\\"fraud\\", le=\\"1.0\\"' in rules
    assert 'model=~\\".+\\", model!~\\"fraud\\", le=\\"0.25\\"' in rules


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grafana_urls": "x"}, "no setting 'grafana_urls'; they have absent_for,"),
        ({"objectives": [{"name": "a", "latency_s": 0.3}]}, "objective 'a' is 0.3, where no bucket"),
        ({"budget_days": "a month"}, "jsonnet: "),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compiled(settings)


def test_the_command_says_what_is_wrong_in_a_sentence() -> None:
    done = run("--set", "down_form=5m")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the dashboards have no setting 'down_form'")
