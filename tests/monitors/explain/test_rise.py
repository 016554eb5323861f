"""Who carries a rise of the loss: planted ones are named, and what chance does is not."""

from collections.abc import Callable, Sequence
from functools import cache

import msgspec
import numpy as np
import pytest
from scipy import stats

from monitors.cell_losses import Losses, follow
from monitors.explain.cells import number
from monitors.explain.explanation import Rise
from monitors.explain.rise import LossPast, explain_rise
from monitors.loss import LOSS_UNIT, losses
from monitors.profile import PREDICTION, Profile
from monitors.reference import Part, build
from serving.protocol import Array

DAY = 86400.0
NAMES = np.array(["AA", "UA", "B6"], object)

Truth = Callable[[Part, Array], Array]  # the probabilities by which labels come, from those that the model gives


def rows(days: int, seed: int, truth: Truth = lambda part, p: p, *, weather: float = 0.0, late: float = 0.0) -> Part:
    """300 flights a day, whose delays depend on the hour; `late` is the share of them that are moved to the evening."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), 300)
    hour = rng.integers(6, 22, len(day)).astype(np.float32)
    hour[rng.random(len(day)) < late] = 20
    p = np.where(hour >= 17, 0.3, 0.1) + 0.05 * rng.random(len(day))
    values: dict[str, Array] = {"dep_hour": hour, "carrier": NAMES[rng.integers(0, 3, len(day))]}
    part = Part(values, p, None, day * DAY)
    stormy = rng.normal(0, weather, days)[day]
    labels = (rng.random(len(day)) < np.clip(truth(part, p) + stormy, 0, 1)) * 1.0
    return Part(values, p, labels, day * DAY)


@cache
def profile(weather: float = 0.0, days: int = 60, seed: int = 1) -> Profile:
    part = rows(days, seed, weather=weather)
    return build(part.values, {"dep_hour": "numeric"}, prediction=part.prediction, labels=part.labels,
                 task="classification", time=part.time)  # fmt: skip


def tables(known: Profile, part: Part) -> tuple[bytes, ...]:
    """As the ledger adds them up, a table a day."""
    assert known.losses and part.time is not None and part.prediction is not None and part.labels is not None
    cells = np.stack([known.features[name].cells(part.columns[name]) for name in known.losses.names], 1).astype(
        np.uint8
    )
    units = np.rint(losses("classification", 1.0, part.prediction, part.labels) / LOSS_UNIT).astype(np.int64)
    days = [part.time == day for day in np.unique(part.time)]
    return tuple(follow(b"", known.losses.sizes, cells[day], np.ones(int(day.sum()), int), units[day]) for day in days)


def explained(known: Profile, part: Part, *, least: int = 100, feature: str = "") -> Rise:
    assert known.losses is not None
    found = explain_rise(known.losses, known.features, LossPast(tables(known, part), DAY, least), feature)
    assert found is not None
    return found


def evening(part: Part, p: Array) -> Array:
    """From five o'clock on twice as many are late."""
    return np.where(part.values["dep_hour"] >= 17, 2 * p, p)


def everywhere(part: Part, p: Array) -> Array:
    """By which the Brier loss of each row is expected to be 0.05 more."""
    return p + 0.05 / (1 - 2 * p)


KNOWN = profile(weather=0.05)


def test_rows_that_are_predicted_worse_carry_the_rise() -> None:
    part = rows(8, 2, evening, weather=0.05)
    found = explained(KNOWN, part)
    first = found.carriers[0]
    assert first.feature in ("dep_hour", PREDICTION)
    (hour,) = (one for one in found.carriers if one.feature == "dep_hour")
    assert "AA" not in found.text and [one.feature for one in found.carriers].count("carrier") == 0
    share = hour.now / float((part.values["dep_hour"] >= 17).mean())  # the evening is wrong at all hours alike
    assert hour.where == "18 to 21" and hour.lower <= share <= hour.upper
    assert hour.mix < 0.1 and hour.now == pytest.approx(5 / 16, abs=0.1)
    assert hour.loss > 1.3 * (hour.loss_before or 1.0)
    assert "of the rise (" in found.text and "comes from rows with dep_hour" in found.text
    assert "they are predicted worse (mean loss" in hour.text


def test_more_than_all_of_a_rise_is_carried_where_other_rows_got_better() -> None:
    def both(part: Part, p: Array) -> Array:
        return np.where(part.values["dep_hour"] >= 17, 2 * p, 0.7 * p)

    (hour,) = explained(KNOWN, rows(20, 2, both, weather=0.01), feature="dep_hour").carriers
    assert hour.share > hour.lower > 1
    said = "More than all of the rise (at least 100 %), since other rows lower the loss, comes from rows with dep_hour"
    assert hour.text.startswith(said)


def test_more_rows_where_the_loss_was_high_carry_the_rise() -> None:
    found = explained(KNOWN, rows(10, 2, late=0.4, weather=0.05), feature="dep_hour")
    (hour,) = found.carriers
    assert hour.mix > 0.8 and hour.now > hour.reference + 0.2
    assert f"there are more of them than before ({100 * hour.reference:.0f} %)" in hour.text


@pytest.mark.parametrize("feature", ["dep_hour", "carrier", PREDICTION])
def test_the_parts_of_a_feature_add_up_to_the_rise(feature: str) -> None:
    found = explained(KNOWN, rows(6, 3, evening, late=0.2), feature=feature)
    (carrier,) = found.carriers
    assert sum(part.mix + part.rate for part in carrier.parts) == pytest.approx(found.now - found.reference)
    assert sum(part.beyond for part in carrier.parts) == pytest.approx(0.0, abs=1e-9)
    assert sum(part.now for part in carrier.parts) == pytest.approx(1.0)


def test_a_rise_of_all_rows_alike_names_no_cell() -> None:
    found = explained(KNOWN, rows(10, 4, everywhere, weather=0.05))
    assert found.now > found.reference + 0.02 and found.carriers == ()
    assert found.text.endswith("carries more of the rise than its rows' share, beyond chance.")


def test_a_loss_that_did_not_rise_is_not_split() -> None:
    found = explained(KNOWN, rows(6, 5, lambda part, p: 0.5 * p))
    assert found.carriers == () and found.text.endswith(f"those of the reference {number(found.reference)}.")


@pytest.mark.parametrize(("days", "weather"), [(2, 0.0), (8, 0.15), (20, 0.15)])
def test_what_chance_does_is_not_named(days: int, weather: float) -> None:
    """Streams in which all rows are as in the reference, or worse alike; in at most one in twenty a cell is named."""
    streams, named = 40, 0
    for seed in range(streams):
        truth = everywhere if seed % 2 else lambda part, p: p
        known = profile(weather, days=30, seed=1000 + seed // 10)
        named += bool(explained(known, rows(days, 100 + seed, truth, weather=weather)).carriers)
    assert named <= stats.binom.ppf(0.999, streams, 0.05)


def test_errors_without_the_clusters_name_what_chance_does() -> None:
    """The test above can fail: with the spread of independent rows it does."""
    named = 0
    for seed in range(40):
        known = profile(0.15, days=30, seed=1000 + seed // 10)
        assert known.losses is not None
        bare = msgspec.structs.replace(known, losses=unclustered(known.losses))
        named += bool(explained(bare, rows(2, 100 + seed, weather=0.15)).carriers)
    assert named > stats.binom.ppf(0.999, 40, 0.05)


def test_nothing_is_named_where_neither_period_shows_how_blocks_differ() -> None:
    """Three days, and a reference without times: with the errors of independent rows the evening would be named."""
    timeless = rows(60, 1)
    known = build(timeless.values, {"dep_hour": "numeric"}, prediction=timeless.prediction, labels=timeless.labels,
                  task="classification")  # fmt: skip
    few, four = (explained(known, rows(days, 2, evening), feature="dep_hour").carriers[0] for days in (3, 4))
    assert few.where == "" and all(part.error is None for part in few.parts)
    assert four.where == "18 to 21"


def unclustered(found: Losses) -> Losses:
    features = {
        name: msgspec.structs.replace(cells, spread=tuple(0.02 * value for value in cells.spread))
        for name, cells in found.features.items()
    }
    return msgspec.structs.replace(found, features=features)


def test_cells_with_few_rows_are_told_as_one_and_without_their_loss() -> None:
    part = rows(6, 2, evening)
    (hour,) = explained(KNOWN, part, least=250, feature="dep_hour").carriers
    small = [one for one in hour.parts if one.name == "cells with fewer than 250 rows"]
    assert len(small) == 1 and small[0].loss is None and not small[0].carries
    assert all(one.now * part.rows >= 250 for one in hour.parts[:-1])


def test_values_that_the_reference_lacks_may_carry_it() -> None:
    def new_carrier(part: Part, p: Array) -> Array:
        part.values["carrier"][::4] = "ZZ"
        return np.where(part.values["carrier"] == "ZZ", 0.9, p)

    (carrier,) = explained(KNOWN, rows(12, 6, new_carrier), feature="carrier").carriers
    assert carrier.where == "values the reference lacks" and carrier.loss_before is None
    assert "the reference has none" in carrier.text


@pytest.mark.parametrize("kept", [(), (b"",), (bytes(16),)])
def test_blocks_without_cells_or_with_those_of_another_reference_tell_nothing(kept: Sequence[bytes]) -> None:
    assert KNOWN.losses is not None
    assert explain_rise(KNOWN.losses, KNOWN.features, LossPast(tuple(kept), DAY, 100)) is None


def test_a_rise_is_json_and_back() -> None:
    found = explained(KNOWN, rows(8, 2, evening))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Rise) == found
