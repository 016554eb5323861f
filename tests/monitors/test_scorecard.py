import numpy as np

from monitors.fairness import TOO_FEW
from monitors.metrics import Plan
from monitors.scorecard import Scorecard, scorecard
from monitors.tables import Tables
from serving.manifest import Segment


def test_a_segment_is_shown_from_the_declared_number_of_rows_on_and_before_as_too_few() -> None:
    tables, rng = Tables(Plan("classification"), (Segment("sex", values=("f", "m")),)), np.random.default_rng(1)
    scores, codes = rng.random(300), np.repeat([0, 1, 2], [100, 99, 101])
    tables.follow(scores, (rng.random(300) < scores) * 1.0, np.ones(300, np.int64), codes)
    tables.offer(scores, codes.astype(np.uint16))
    card = scorecard(tables, least=100)
    sex = card.segments["sex"]
    assert sex["m"] == TOO_FEW
    shown = {name: metrics["accuracy"].n for name, metrics in sex.items() if isinstance(metrics, dict)}
    assert shown == {"f": 100, "other": 101}
    assert card.fairness["sex"]["error_rate"].segments["m"] == TOO_FEW
    assert card.metrics["accuracy"].n == 300
    assert card.metrics["auc"].lower < card.metrics["auc"].value < card.metrics["auc"].upper


def test_without_labels_there_are_no_metrics_and_no_tables_make_no_card() -> None:
    assert scorecard(None, least=1) == Scorecard()
    assert scorecard(Tables(Plan("classification")), least=1).metrics == {}


def test_what_intervals_rest_on_is_said() -> None:
    apart = scorecard(Tables(Plan("classification")), 1).assumption
    clustered = scorecard(Tables(Plan("classification", design_effect=91.25)), 1).assumption
    assert "do not depend on one another (no clusters are known)" in apart
    assert "only in clusters of at most 91.2" in clustered


def test_clusters_widen_the_intervals_and_leave_the_values() -> None:
    narrow, wide = (Tables(Plan("classification", design_effect=d)) for d in (1.0, 20.0))
    for tables in (narrow, wide):
        tables.follow(np.full(1000, 0.9), np.repeat([0.0, 1.0], [200, 800]), np.ones(1000, np.int64), np.zeros(1000))
    one, other = (scorecard(tables, 1).metrics["accuracy"] for tables in (narrow, wide))
    assert (one.value, one.n) == (other.value, other.n) == (0.8, 1000)
    assert other.upper - other.lower > 3 * (one.upper - one.lower)
