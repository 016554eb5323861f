"""Every query asks for what the code exports, by labels that it has."""

import re

import pytest

from tests.dashboards import compiled
from tests.dashboards.promql import Series, Unfit, labels_of

EVERY = [*compiled.queries(), *compiled.runbook_queries()]


@pytest.mark.parametrize("query", EVERY, ids=lambda query: query.where)
def test_every_query_asks_for_what_is_exported(query: compiled.Query) -> None:
    labels = labels_of(query.expression, compiled.known())
    assert set(query.legend) <= labels


def test_every_table_has_the_columns_it_is_ordered_by() -> None:
    for where, panel in compiled.panels():
        if panel["type"] == "table":
            _, organize = panel["transformations"]
            keys = {name for name in organize["options"]["indexByName"] if name.split()[0] != "Value"}
            for target in panel["targets"]:
                assert labels_of(target["expr"].replace("$__rate_interval", "5m"), compiled.known()) == keys, where
            values = {f"Value #{target['refId']}" for target in panel["targets"]}
            assert set(organize["options"]["renameByName"]) == (values if len(values) > 1 else {"Value"})
            titles = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            assert titles == set(organize["options"]["renameByName"].values())


@pytest.mark.parametrize("rule", compiled.alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_speaks_only_of_labels_that_it_has(rule: dict[str, dict[str, str]]) -> None:
    labels = labels_of(str(rule["expr"]), compiled.known()) | set(rule["labels"])
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


KNOWN = {
    "requests_total": Series(frozenset({"model", "code", "job"})),
    "seconds_bucket": Series(frozenset({"model", "le"}), ("0.25", "1.0")),
    "weight": Series(frozenset({"model"})),
}


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("request_total", "nobody exports request_total"),
        ("rate(requests_total{kode='500'}[5m])", "has no label 'kode'"),
        ("sum by (version) (requests_total)", "there is no ['version'] among"),
        ("sum by (model) (requests_total) / requests_total", "never match"),
        ("sum by (model) (requests_total) and sum(weight)", "never match"),
        ("weight * on (code) requests_total", "matched on ['code']"),
        ("seconds_bucket{le='0.3'}", "no bucket of seconds_bucket ends at 0.3"),
        ("histogram_quantile(0.9, sum by (model) (rate(seconds_bucket[5m])))", "a quantile needs the label le"),
    ],
)
def test_a_query_that_cannot_mean_what_it_says_is_found(expression: str, said: str) -> None:
    with pytest.raises(Unfit, match=re.escape(said)):
        labels_of(expression, KNOWN)


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("sum by (model, code) (rate(requests_total[5m])) > 0", {"model", "code"}),
        ("1 - sum by (model) (requests_total) / weight", {"model"}),
        ("histogram_quantile(0.9, sum by (le, model) (rate(seconds_bucket[5m])))", {"model"}),
        ("time() - max by (model) (weight)", {"model"}),
        ("count(weight) or vector(0)", set()),
        ("absent(requests_total{job='a', code=~'5..'})", {"job"}),
        ("topk(3, weight) and on (model) requests_total", {"model"}),
        ("scalar(sum(weight)) - weight", {"model"}),
        ("sum without (code) (requests_total)", {"model", "job"}),
    ],
)
def test_the_labels_of_what_comes_out(expression: str, labels: set[str]) -> None:
    assert labels_of(expression, KNOWN) == labels
