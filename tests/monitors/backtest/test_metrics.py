import msgspec
import numpy as np
import pytest

from monitors.backtest.metrics import Metrics
from serving.errors import BadRequest
from tests.monitors.backtest.history import EVIL, ROWS, profile, rows


def test_metrics_of_all_rows_and_of_segments_are_those_of_the_labels() -> None:
    part = rows(10, 5)
    assert part.prediction is not None and part.labels is not None
    metrics = Metrics(profile(), "classification", ["carrier", EVIL])
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
    metrics = Metrics(profile(), "classification", ["carrier"])
    metrics.add(rows(1, 5))
    assert metrics.scorecard(least=200).segments["carrier"]["UA"] == "too few"


def test_a_segment_is_a_feature() -> None:
    with pytest.raises(BadRequest, match="--segment takes a feature, got 'carier'; there are"):
        Metrics(profile(), "classification", ["carier"])


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (["_prediction"], "--segment takes a feature, got '_prediction'; there are 'temp<script>', 'carrier', "),
        (["carrier", "carrier"], "--segment names a feature twice: carrier, carrier"),
        (["x", "y", "z", "u"], "divide rows in 83521 ways, at most 65536 are possible"),
        (["gone"], "all its values are missing in the reference"),
        (["fixed"], "feature 'fixed' has one bin in the reference"),
    ],
)
def test_segments_that_cannot_be(features: list[str], said: str) -> None:
    known = profile()
    law = known.features["carrier"]
    many = msgspec.structs.replace(law, categories=tuple(f"c{k}" for k in range(16)))
    laws = {
        **known.features, **dict.fromkeys(["x", "y", "z", "u"], many),
        "gone": msgspec.structs.replace(law, categories=()),
        "fixed": msgspec.structs.replace(known.features[EVIL], edges=()),
    }  # fmt: skip
    with pytest.raises(BadRequest, match=said):
        Metrics(msgspec.structs.replace(known, features=laws), "classification", features)


def test_a_category_that_is_called_other_is_one_of_the_others() -> None:
    known = profile()
    law = msgspec.structs.replace(known.features["carrier"], categories=("AA", "other", "UA"))
    metrics = Metrics(msgspec.structs.replace(known, features={"carrier": law}), "classification", ["carrier"])
    metrics.add(rows(1, 5))
    assert metrics.scorecard(least=1).segments["carrier"].keys() == {"AA", "UA", "other"}
