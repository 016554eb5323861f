import numpy as np
import pytest

from monitors.backtest.metrics import Metrics
from serving.errors import BadRequest
from tests.monitors.backtest.history import EVIL, ROWS, profile, rows


def test_metrics_of_all_rows_and_of_segments_are_those_of_the_labels() -> None:
    part = rows(10, 5)
    assert part.prediction is not None and part.labels is not None
    metrics = Metrics(profile(), ["carrier", EVIL])
    metrics.add(part)
    found = metrics.scorecard(least=50)
    known = np.isfinite(part.labels)
    brier = (part.prediction - part.labels) ** 2
    assert found.metrics["brier"].value == pytest.approx(brier[known].mean(), abs=1e-6)
    assert found.metrics["brier"].n == known.sum() == 10 * ROWS * 49 / 50
    assert found.segments["carrier"].keys() == {"AA", "B6", "UA"} or "other" in found.segments["carrier"]
    one = found.segments["carrier"]["UA"]
    assert not isinstance(one, str)
    own = known & (part.values["carrier"] == "UA")
    assert one["brier"].value == pytest.approx(brier[own].mean(), abs=1e-6) and one["brier"].n == own.sum()
    numbers = [segment for segment in found.segments[EVIL].values() if not isinstance(segment, str)]
    assert len(numbers) == 5 and sum(segment["brier"].n for segment in numbers) == known.sum()


def test_a_small_segment_is_too_few() -> None:
    metrics = Metrics(profile(), ["carrier"])
    metrics.add(rows(1, 5))
    assert metrics.scorecard(least=200).segments["carrier"]["UA"] == "too few"


def test_a_segment_is_a_feature() -> None:
    with pytest.raises(BadRequest, match="--segment takes a feature, got 'carier'; there are"):
        Metrics(profile(), ["carier"])
