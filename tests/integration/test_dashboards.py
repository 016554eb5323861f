"""Everything that the dashboards, alerts and runbooks ask has an answer in a Prometheus that scraped the demo."""

import pytest

from tests.dashboards import compiled
from tests.dashboards.promql import selectors
from tests.integration.demonstration import Done

pytestmark = pytest.mark.timeout(300)

# What the demo has none of, and why.
ABSENT = {
    "gaugeway_shed_total": "the demo asks no more than its replicas can do, so nothing is refused",
    'gaugeway_alarm_severity{feature="_all",severity="info"}': "its blocks are long enough",
    'gaugeway_alarm_severity{feature="_prediction",severity="info"}': "its blocks are long enough",
    'gaugeway_alarm_severity{feature="_quality",severity="info"}': "its blocks are long enough",
}


def absent(expression: str) -> bool:
    return any(name in expression for name in ABSENT)


def unanswered(done: Done, query: compiled.Query) -> str:
    """Empty, or what is missing of the answer."""
    ask = done.prometheus.instant if query.instant else done.prometheus.range
    found = [series for series in ask(query.expression) if series.values]
    if not found:
        return f"{query.where} has no data: {query.expression}"
    if not any(all(series.labels.get(label) for label in query.legend) for series in found):
        return f"{query.where} has no series with {query.legend}: {[series.labels for series in found]}"
    return ""


def test_every_query_of_the_dashboards_has_data(done: Done) -> None:
    queries = compiled.queries()
    assert len(queries) > 50
    missing = [said for query in queries if not absent(query.expression) and (said := unanswered(done, query))]
    assert not missing, "\n".join(missing)


def test_every_selector_of_the_alerts_and_runbooks_has_data(done: Done) -> None:
    """An alert mostly finds nothing, so that a wrong name in it would not be seen."""
    asked = {rule.get("alert", rule.get("record")): rule["expr"] for rule in compiled.rules()}
    asked |= {query.where: query.expression for query in compiled.runbook_queries()}
    found = {selector for expression in asked.values() for selector in selectors(expression)}
    assert len(found) > 15
    assert [one for one in found if not absent(one) and not done.prometheus.series(one)] == []


def test_what_is_said_to_be_absent_is_absent(done: Done) -> None:
    assert [name for name in ABSENT if done.prometheus.series(name)] == []
    for feature in ("_all", "_prediction", "_quality"):
        assert done.prometheus.series(f'gaugeway_alarm_severity{{feature="{feature}",severity="ticket"}}')


def test_prometheus_evaluates_every_rule(done: Done) -> None:
    assert done.prometheus.troubles() == []
    recorded = {rule["record"] for rule in compiled.rules() if "record" in rule}
    assert {name for name in recorded if not done.prometheus.series(name)} == set()


def test_the_alerts_of_a_bad_day_are_on_their_way(done: Done) -> None:
    """Requests failed at the end: the budget burns. Nothing else is wrong."""
    at_the_end = done.prometheus.instant("ALERTS")
    assert {"Watchdog", "ErrorBudgetBurn"} <= {series.labels["alertname"] for series in at_the_end}
    assert not {"TargetDown", "MetricsAbsent", "ModelUnavailable"} & {s.labels["alertname"] for s in at_the_end}
