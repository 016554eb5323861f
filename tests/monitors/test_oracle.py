"""Labels, counts and metrics against a plain join in DuckDB, whatever came twice, late, early, wrong, or to nobody."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.book import Version
from monitors.journal import Journal
from monitors.labels import UNSAID, Label, LabelStore
from monitors.ledger import Ledger
from monitors.metrics import Metric
from monitors.scorecard import Scorecard, scorecard
from monitors.tables import WHOLE
from serving.config import Monitors
from serving.manifest import Segment
from tests.monitors.metrics.bins import auc_error
from tests.monitors.traffic import START, manifest, packed, profile, record

SETTINGS = Monitors(event_time="request", slot_s=3600, block_s=86400, lateness_s=10**6, label_horizon_s=10**7)
NOW = START + 10**8
VERSIONS = {
    version: Version(
        msgspec.structs.replace(
            manifest(version), segments=(Segment("x1", edges=(0.0,)),), threshold=0.4, kpi_range=(0.0, 9.0)
        ),
        profile(),
    )
    for version in ("1", "2")
}
GROUPS = {-1.0: "(-inf, 0)", 1.0: "[0, inf)"}

JOIN = """
WITH truth AS (
    SELECT id, row, label, kpi, time AS known FROM labels
    QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY time DESC, label DESC, kpi DESC NULLS LAST) = 1
), holder AS (
    SELECT * FROM predictions
    QUALIFY row_number() OVER (PARTITION BY lane, id, row ORDER BY time DESC, number DESC) = 1
)
SELECT version, side, score, label, kpi, greatest(known - time, 0) * 60 AS delay FROM holder JOIN truth USING (id, row)
"""
COUNTS = """
WITH place AS (SELECT id, row, count(*) AS n, count(DISTINCT (time, label)) AS kinds FROM labels GROUP BY ALL)
SELECT
    coalesce(sum(kinds - 1), 0) AS conflicting,
    coalesce(sum(n - kinds), 0) AS doubled,
    count(*) FILTER (NOT EXISTS (SELECT 1 FROM predictions p WHERE p.id = place.id AND p.row = place.row)) AS parked
FROM place
"""
METRICS = """
WITH rows AS (
    SELECT score, label, kpi, score >= 0.4 AS one FROM joined
    WHERE version = $version AND ($side IS NULL OR side = $side)
)
SELECT
    count(*) AS n,
    avg((one = (label = 1))::INT) AS accuracy,
    avg(label) FILTER (one) AS precision,
    avg(one::INT) FILTER (label = 1) AS recall,
    2.0 * count(*) FILTER (one AND label = 1) / nullif(count(*) FILTER (one) + count(*) FILTER (label = 1), 0) AS f1,
    avg((score - label) ** 2) AS brier,
    avg(-ln(if(label = 1, score, 1 - score))) AS log_loss,
    avg(one::INT) AS selection_rate,
    avg(label) AS label_mean,
    avg(least(coalesce(kpi, label), 9)) AS kpi,
    (SELECT avg(if(a.score > b.score, 1, if(a.score = b.score, 0.5, 0)))
     FROM rows a, rows b WHERE a.label = 1 AND b.label = 0) AS auc
FROM rows
"""


@dataclass(frozen=True)
class Predict:
    id: str
    version: str
    shadow: bool
    logits: tuple[float, ...]  # one a row
    side: float
    minute: int


@dataclass(frozen=True)
class Tell:
    id: str
    row: int
    label: float
    minute: int
    kpi: float | None


RESTART = "restart"
Event = Predict | Tell | str

ids = st.sampled_from(["a", "b", "c"])
events = st.one_of(
    st.builds(
        Predict, ids, st.sampled_from(["1", "2"]), st.booleans(),
        st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), min_size=1, max_size=2).map(tuple),
        st.sampled_from(sorted(GROUPS)), st.integers(0, 500),
    ),
    st.builds(Tell, st.sampled_from(["a", "b", "c", "nobody"]), st.integers(0, 1),
              st.sampled_from([0.0, 1.0]), st.integers(0, 900), st.none() | st.sampled_from([0.5, 12.0])),
    st.just(RESTART),
)  # fmt: skip


@dataclass
class Subject:
    """A ledger over a journal, which may be left without warning after a commit."""

    journal: Journal = field(default_factory=lambda: Journal(None, "oracle"))
    predictions: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self.ledger = Ledger(SETTINGS, LabelStore(self.journal.sql, 10**6))
        self.ledger.load(self.journal)

    def take(self, event: Event) -> None:
        self.journal.begin()
        if isinstance(event, Predict):
            self._predict(event)
        elif isinstance(event, Tell):
            self.labels.append(msgspec.to_builtins(event) | {"time": float(event.minute)})
            kpi = UNSAID if event.kpi is None else event.kpi
            label = Label("m", event.id, event.row, event.label, START + 60 * event.minute, kpi)
            self.ledger.label([label], NOW)
        else:
            self.ledger.save(self.journal)
            self.journal.commit()
            self._open()

    def _predict(self, event: Predict) -> None:
        logits, side = np.array(event.logits, np.float32), np.float32(event.side)
        x = np.stack([logits - side, np.full_like(logits, side), 0 * logits, 0 * logits], 1)
        version = VERSIONS[event.version]
        role = "shadow" if event.shadow else "primary"
        found = record([event.id], x, [START + 60 * event.minute], of=version.manifest, role=role)  # type: ignore[arg-type]
        self.ledger.ingest(packed([found]), {(found.model, found.version, found.digest): version}, NOW)
        for row, score in enumerate(found.outputs["p"].array()[:, 1].tolist()):
            self.predictions.append({
                "number": len(self.predictions), "version": event.version,
                "lane": event.version if event.shadow else "", "id": event.id, "row": row,
                "time": float(event.minute), "score": score, "side": event.side,
            })  # fmt: skip


def oracle(subject: Subject) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    empty = {
        "predictions": {"number": 0, "version": "", "lane": "", "id": "", "row": 0, "time": 0.0, "score": 0.0,
                        "side": 0.0},
        "labels": {"id": "", "row": 0, "label": 0.0, "time": 0.0, "kpi": 0.0},
    }  # fmt: skip
    for name, rows in (("predictions", subject.predictions), ("labels", subject.labels)):
        schema = pa.Table.from_pylist([empty[name]]).schema
        connection.register(f"{name}_given", pa.Table.from_pylist(rows, schema=schema))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_given")
    connection.execute(f"CREATE TABLE joined AS {JOIN}")
    return connection


def one(connection: duckdb.DuckDBPyConnection, query: str, **parameters: Any) -> dict[str, Any]:
    found = connection.execute(query, parameters) if parameters else connection.execute(query)
    names = [column[0] for column in found.description or ()]
    return dict(zip(names, found.fetchone() or (), strict=True))


def agree(shown: dict[str, Metric], expected: dict[str, Any], auc_bin: float) -> None:
    assert shown.keys() - {"ece"} == {name for name, value in expected.items() if value is not None and name != "n"}
    for name, metric in shown.items():
        if name != "ece":
            assert metric.value == pytest.approx(expected[name], abs=1e-6 + auc_bin * (name == "auc"))
        assert metric.lower <= metric.value <= metric.upper
    assert shown.get("accuracy", Metric(0, 0, 0, 0)).n == expected["n"]


@settings(max_examples=30, deadline=None)
@given(st.lists(events, min_size=12, max_size=40))
def test_counts_and_metrics_are_those_of_a_plain_join(story: Sequence[Event]) -> None:
    subject = Subject()
    for event in story:
        subject.take(event)
    connection = oracle(subject)
    expected, marks = one(connection, COUNTS), subject.ledger.marks
    assert (marks.conflicting, marks.doubled) == (expected["conflicting"], expected["doubled"])
    assert subject.ledger.store.parked.total() == expected["parked"]
    keys = {(p["lane"], p["id"], p["row"]) for p in subject.predictions}
    assert sum(book.reused for book in subject.ledger.books.values()) == len(subject.predictions) - len(keys)
    for (_, version), book in subject.ledger.books.items():
        delays = "SELECT count(*) AS n, coalesce(sum(delay), 0) AS total FROM joined WHERE version = $version"
        joined = one(connection, delays, version=version)
        assert (book.joined, sum(book.delays), book.delay_s) == (joined["n"], joined["n"], joined["total"])
        assert book.expected == sum(p["version"] == version for p in subject.predictions)
        assert book.tables is not None
        card: Scorecard = scorecard(book.tables, least=1)
        error = float(np.nan_to_num(auc_error(book.tables.plan, book.tables.of(WHOLE)[None])[0]))
        agree(card.metrics, one(connection, METRICS, version=version, side=None), error)
        for side, name in GROUPS.items():
            found = card.segments.get("x1", {}).get(name, "too few")
            if isinstance(found, dict):
                agree(found, one(connection, METRICS, version=version, side=side), 0.5)
            else:
                assert one(connection, METRICS, version=version, side=side)["n"] == 0
