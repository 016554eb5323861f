"""What `make dashboards` wrote, taken apart for tests."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from dashboards.compiling import OUT
from monitors import exporter
from serving import metrics
from tests.dashboards.promql import BUCKET, SCRAPE, Labels, Series, labels_of

RUNBOOKS = OUT.parent / "runbooks"


@dataclass(frozen=True)
class Query:
    """One question to Prometheus. `where` says which panel, variable, annotation or rule asks it."""

    where: str
    expression: str
    legend: tuple[str, ...] = ()
    instant: bool = True


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """With the name of each, rows left out."""
    for uid, board in dashboards().items():
        yield from ((f"{uid}: {panel['title']}", panel) for panel in board["panels"] if panel["type"] != "row")


@cache
def rules() -> tuple[dict[str, Any], ...]:
    """Recording rules first, then alerts, each in the order in which they are evaluated."""
    files = (yaml.safe_load((OUT / name).read_text()) for name in ("rules.yaml", "alerts.yaml"))
    return tuple(rule for file in files for group in file["groups"] for rule in group["rules"])


def alerts() -> tuple[dict[str, Any], ...]:
    return tuple(rule for rule in rules() if "alert" in rule)


def queries(rate_interval: str = "5m") -> list[Query]:
    """Of all panels, annotations and variables, with every variable at "All"."""
    found = [*_of_panels(), *_of_annotations(), *_of_variables()]
    values = {"$__rate_interval": rate_interval, "$__range": "1h", "$model": ".+", "$version": ".+"}
    for name, value in values.items():
        found = [Query(q.where, q.expression.replace(name, value), q.legend, q.instant) for q in found]
    return found


def runbook_queries() -> list[Query]:
    """What the runbooks offer to copy as PromQL."""
    return [
        Query(path.name, query.replace("$model", ".+").replace("$version", ".+"))
        for path in sorted(RUNBOOKS.glob("*.md"))
        for block in re.findall(r"```promql\n(.*?)```", path.read_text(), re.DOTALL)
        for query in block.strip().splitlines()
    ]


def _of_panels() -> Iterator[Query]:
    for where, panel in panels():
        for target in panel.get("targets", []):
            legend = tuple(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            yield Query(f"{where}, {target['refId']}", target["expr"], legend, target["instant"])


def _of_annotations() -> Iterator[Query]:
    for uid, board in dashboards().items():
        for note in board["annotations"]["list"]:
            named = tuple(re.findall(r"{{(\w+)}}", note["titleFormat"]))
            yield Query(f"{uid}: annotation {note['name']}", note["expr"], named, instant=False)


def _of_variables() -> Iterator[Query]:
    """`label_values(SELECTOR, LABEL)` asks for the values of a label."""
    for uid, board in dashboards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert asked, f"{uid}: variable {variable['name']}: {variable['query']}"
                yield Query(f"{uid}: variable {variable['name']}", asked[1], (asked[2],))


@cache
def known() -> dict[str, Series]:
    """Every series there is: what the code exports, what the rules record, ALERTS and up."""
    found = {"up": Series(SCRAPE)}
    declared: dict[str, metrics.Spec | exporter.Spec] = {**metrics.NAMES, **metrics.CONTROL, **exporter.NAMES}
    for name, spec in declared.items():
        found |= _exported(f"gaugeway_{name}", spec)
    alerting: Labels = frozenset({"alertname", "alertstate"})
    for rule in rules():
        labels = labels_of(rule["expr"], found) | frozenset(rule.get("labels", {}))
        if "record" in rule:
            found[rule["record"]] = Series(labels)
        alerting |= labels
    return {**found, "ALERTS": Series(alerting)}


def _exported(name: str, spec: metrics.Spec | exporter.Spec) -> dict[str, Series]:
    labels = frozenset(spec.labels) | SCRAPE
    if spec.kind != "histogram":
        return {name: Series(labels)}
    buckets = spec.buckets if isinstance(spec, metrics.Spec) else ()
    bounds = (*map(str, buckets), "+Inf")
    return {f"{name}_{part}": Series(labels) for part in ("count", "sum")} | {
        f"{name}_bucket": Series(labels | BUCKET, bounds)
    }
