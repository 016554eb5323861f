"""The alerts as Prometheus and Alertmanager see them, by their own tools; each has all that whoever is told needs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.compiling import HERE, OUT
from tests.dashboards import compiled

CASES = sorted((HERE / "tests").glob("*.yaml"))
NAMES = sorted({rule["alert"] for rule in compiled.alerts()})


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    run("promtool", "check", "rules", "--lint-fatal", OUT / "rules.yaml", OUT / "alerts.yaml")


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_stay_silent_and_resolve(cases: Path) -> None:
    run("promtool", "test", "rules", cases)


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    every = [found for path in CASES for test in yaml.safe_load(path.read_text())["tests"]
             for found in test["alert_rule_test"]]  # fmt: skip
    fires = {found["alertname"] for found in every if found["exp_alerts"]}
    silent = {found["alertname"] for found in every if not found["exp_alerts"]}
    assert fires == set(NAMES)
    assert silent == set(NAMES) - {"Watchdog"}
    windows = {rule["labels"].get("window") for rule in compiled.alerts()} - {None}
    assert windows == {alert["exp_labels"].get("window") for found in every for alert in found["exp_alerts"]} - {None}


@pytest.mark.parametrize("rule", compiled.alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_how_much_and_where_to_look(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in ("page", "ticket", "info", "none")
    assert "{{" not in notes["summary"], "a summary is the same each time, so that it can be grouped and searched"
    assert "$value" in notes["description"]
    boards = compiled.dashboards()
    for link in (notes["dashboard_url"], notes["runbook_url"]):
        found = re.fullmatch(r"http://localhost:3000/d/([\w-]+)/\?(?:viewPanel=(\d+)|from=now-3h&to=now)(.*)", link)
        assert found, link
        uid, panel, _ = found.groups()
        titles = {str(panel["id"]): panel["title"] for panel in boards[uid]["panels"]}
        assert panel is None or titles[panel] == rule["alert"]
        variables = {variable["name"] for variable in boards[uid]["templating"]["list"]}
        assert set(re.findall(r"&var-(\w+)=", link)) <= variables


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "ErrorBudgetBurn", "severity": "page", "window": "1h", "model": "m"}, "pages"),
        ({"alertname": "ErrorBudgetBurn", "severity": "ticket", "window": "3d", "model": "m"}, "tickets"),
        ({"alertname": "FeatureDrift", "severity": "ticket", "model": "m"}, "tickets"),
        ({"alertname": "CalibrationLost", "severity": "info", "model": "m"}, "nobody"),
        ({"alertname": "Watchdog", "severity": "none"}, "watchdog"),
    ],
)
def test_alertmanager_tells_the_right_people(labels: dict[str, str], receiver: str) -> None:
    config = HERE / "alertmanager.yaml"
    assert "SUCCESS" in run("amtool", "check-config", config)
    told = [f"{name}={value}" for name, value in {"component": "gaugeway", **labels}.items()]
    assert run("amtool", "config", "routes", "test", f"--config.file={config}", *told).strip() == receiver
