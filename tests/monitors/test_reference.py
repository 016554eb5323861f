import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monitors import reference
from monitors.reference import PREDICTION, Part, Profile, build, decode, marginal, of_parts
from serving.errors import ArtifactCorrupt, PublishRefused

floats = st.floats(allow_nan=True, allow_infinity=True, width=32)
columns = hnp.arrays(np.float32, st.integers(1, 200), elements=floats)


def normal(n: int = 5_000, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_ten_quantile_bins_below_above_missing() -> None:
    law = marginal(np.arange(10_000.0), "numeric")
    assert law.counts == (0, *[1_000] * 10, 0, 0)
    assert law.edges == tuple(range(1_000, 10_000, 1_000))
    assert law.theta.tolist() == pytest.approx([0.5 / 10_006.5] + [1_000.5 / 10_006.5] * 10 + [0.5 / 10_006.5] * 2)


@settings(deadline=None)
@given(values=columns, live=columns)
def test_every_value_has_a_cell_and_edges_are_distinct(values: np.ndarray, live: np.ndarray) -> None:
    law = marginal(values, "numeric")
    assert list(law.edges) == sorted(set(law.edges))
    assert len(law.counts) == law.size <= 13
    assert sum(law.counts) == len(values)
    assert law.theta.sum() == pytest.approx(1) and (law.theta > 0).all()
    assert law.count(live).sum() == len(live) and law.count(live).shape == (law.size,)
    assert law.count(values).tolist() == list(law.counts)
    assert law.count(live)[-1] == np.isnan(live).sum()
    if np.isfinite(values).any():
        low, high = values[np.isfinite(values)].min(), values[np.isfinite(values)].max()
        assert law.count(live)[0] == (live < low).sum() and law.count(live)[-2] == (live > high).sum()


@settings(deadline=None)
@given(values=columns, live=columns)
def test_a_profile_read_back_counts_the_same(values: np.ndarray, live: np.ndarray) -> None:
    profile = build({"x": values}, {"x": "numeric"}, labels=None)
    again = reference.decode(profile.encode())
    assert again == profile and again.digest == profile.digest
    assert (again.features["x"].count(live) == profile.features["x"].count(live)).all()
    assert (again.features["x"].theta == profile.features["x"].theta).all()


def test_equal_values_get_bins_of_their_own() -> None:
    """Four fifths are zero: zero alone is one bin, so that a change of its share is seen."""
    values = np.where(np.arange(5_000) % 5, 0.0, normal() ** 2)
    law = marginal(values, "numeric")
    assert law.count(np.zeros(7)).tolist() == [0, 7] + [0] * (law.size - 2)
    assert law.counts[1] == (values == 0).sum()


def test_a_constant_has_one_bin() -> None:
    law = marginal(np.full(3_000, 7.0), "numeric")
    assert law.counts == (0, 3_000, 0, 0)
    assert law.count(np.array([6.0, 7.0, 8.0, np.nan])).tolist() == [1, 1, 1, 1]


def test_float64_and_float32_fall_on_the_same_side_of_an_edge() -> None:
    """0.1 is not a float32: as float64 it lies below the edge that it is itself as float32."""
    values = (np.arange(5_000) % 10 / 10).astype(np.float32)
    law = marginal(values, "numeric")
    assert law.dtype == "float32"
    assert law.count(values.astype(np.float64)).tolist() == list(law.counts)
    assert law.count(np.arange(5_000) % 10 / 10).tolist() == list(law.counts)


def test_what_float32_cannot_hold_is_above() -> None:
    assert marginal(normal().astype(np.float32), "numeric").count(np.array([1e300, -1e300]))[[0, -2]].tolist() == [1, 1]


def test_integers_and_booleans_are_numbers() -> None:
    assert marginal(np.arange(5_000), "numeric").count(np.array([-1, 0, 4_999, 5_000])).sum() == 4
    assert marginal(np.arange(5_000) % 2 == 0, "numeric").counts == (0, 2_500, 2_500, 0, 0)


def typed(texts: list[str], kind: str) -> np.ndarray:
    if kind == "numbers":
        return np.array([float(text or "nan") for text in texts], np.float32)
    return np.array([text.encode() for text in texts] if kind == "bytes" else texts, object)


@pytest.mark.parametrize("kind", ["object", "bytes", "numbers"])
def test_categories(kind: str) -> None:
    common = np.repeat(np.arange(10), 300)
    numbers = np.concatenate([common, np.repeat(50, 200), np.arange(60, 70), np.full(5, np.nan)])
    text = ["" if number != number else f"{number:g}" for number in numbers]
    law = marginal(typed(text, kind), "categorical")
    assert law.counts == (*[300] * 10, 200, 10, 5)  # seen once counts as unseen
    live = typed(["0", "9", "50", "60", "99", ""], kind)
    assert law.count(live).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 1]


def test_text_of_the_reference_is_the_bytes_of_requests() -> None:
    law = marginal(np.array(["é", "b", None, "b", "é"] * 300, object), "categorical")
    live = np.array(["é".encode(), b"b", b"", b"\xff"], object)
    assert law.count(live).tolist() == [1, 1, 0, 1, 1]
    odd = marginal(np.array([b"\xff", b"b"] * 600, object), "categorical")
    assert odd.count(np.array([b"\xff", b"\xfe"], object)).tolist() == [1, 0, 0, 1, 0]


def test_categories_survive_the_file() -> None:
    values = {"n": (np.arange(2_000) % 12).astype(np.float32), "t": np.array(["3", "x"] * 1_000, object)}
    profile = build(values, {"n": "categorical", "t": "categorical"})
    again = reference.decode(profile.encode())
    for name, column in values.items():
        assert again.features[name].count(column).tolist() == profile.features[name].count(column).tolist()


def test_new_names_every_day_are_no_drift() -> None:
    law = marginal(np.array([f"id{n}" for n in range(3_000)], object), "categorical")
    live = law.count(np.array([f"new{n}".encode() for n in range(1_000)], object))
    assert live.argmax() == law.theta.argmax() and law.theta.max() > 0.99


def test_everything_missing_is_unfit() -> None:
    for kind, empty in (("numeric", np.full(2_000, np.nan)), ("categorical", np.array([""] * 2_000, object))):
        profile = build({"x": empty}, {"x": kind})  # type: ignore[dict-item]
        assert profile.features["x"].unfit == "every value of the reference is missing"
        assert profile.features["x"].count(empty).tolist()[-1] == 2_000
        assert "x is not judged: every value of the reference is missing" in profile.notes


def test_as_many_bins_as_the_rows_allow() -> None:
    sizes = {n: marginal(normal(n), "numeric") for n in (694, 695, 1_000, 1_200)}
    assert [law.size for law in sizes.values()] == [13, 5, 10, 13]
    assert [bool(law.unfit) for law in sizes.values()] == [True, False, False, False]
    assert all(law.error <= 0.1 for law in sizes.values() if not law.unfit)
    assert sizes[694].unfit == "reference too small: 694 rows, 695 are needed"


def test_design_effect_of_independent_rows_is_near_one() -> None:
    law = marginal(normal(40_000), "numeric", block=np.arange(40_000) // 200)
    assert 1 <= law.design_effect < 1.3 and law.block_rows == 200


@pytest.mark.parametrize("cluster", [4, 20, 50])
def test_design_effect_of_clusters_is_their_size(cluster: int) -> None:
    values = np.repeat(normal(200 * 1_000 // cluster), cluster)
    law = marginal(values, "numeric", block=np.arange(len(values)) // 1_000)
    assert law.design_effect == pytest.approx(cluster, rel=0.35)
    assert law.effective_rows == len(values) / law.design_effect
    assert law.error > marginal(values, "numeric").error


def test_design_effect_needs_four_blocks() -> None:
    profile = build({"x": normal()}, {}, time=np.arange(5_000) * 10.0)
    assert profile.notes[0] == "the reference holds 1 blocks of time, a design effect needs 4: 1 is used"
    assert profile.features["x"].block_rows == 0


def test_a_clustered_reference_is_judged_bluntly_and_says_so() -> None:
    """Fifty days of one weather each are fifty rows, not ten thousand."""
    values = np.repeat(normal(100), 200)
    profile = build({"x": values}, {}, time=np.arange(20_000) * 86400 / 200)
    law = profile.features["x"]
    assert not law.unfit and 0.1 < law.error < 0.5
    assert "moves more than 0.3" in profile.notes[0] and "worth 99 indep" in profile.notes[0]
    few = build({"x": values[:6_000]}, {}, time=np.arange(6_000) * 86400 / 200).features["x"]
    assert not few.unfit and 0.5 < few.error < 0.75
    fewer = build({"x": values[:3_600]}, {}, time=np.arange(3_600) * 86400 / 200).features["x"]
    assert fewer.unfit.startswith("reference too small: its 3600 rows come in clusters and are worth ")
    assert fewer.error > 0.75


def test_prediction_and_risk() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(4_000).astype(np.float32)
    y = (rng.random(4_000) < p).astype(np.int64)
    profile = build({}, {}, prediction=p, labels=y, task="classification")
    assert profile.features.keys() == {PREDICTION} and profile.features[PREDICTION].dtype == "float32"
    assert profile.risk is not None and profile.risk.mean == pytest.approx(1 / 6, abs=0.01)
    assert reference.decode(profile.encode()) == profile


def test_what_is_not_judged_is_said() -> None:
    assert build({"x": normal()}, {}).notes == (
        "no time column: the reference rows are taken as independent (design effect 1)",
        "risk is not judged: the version declares no task",
        "kinds that nobody declared are guessed from the values (numeric: x)",
    )


def test_shapes_must_agree() -> None:
    with pytest.raises(PublishRefused, match=r"'y' has shape \(2,\), expected \(3,\)"):
        build({"x": np.zeros(3), "y": np.zeros(2)}, {})
    with pytest.raises(PublishRefused, match=r"'the labels' has shape \(2,\), expected \(3,\)"):
        build({"x": np.zeros(3)}, {}, labels=np.zeros(2))
    with pytest.raises(PublishRefused, match="at least one feature"):
        build({}, {})


def test_text_is_no_number() -> None:
    with pytest.raises(PublishRefused, match="'x' holds object, a numeric feature needs numbers"):
        build({"x": np.array(["a", "b"], object)}, {"x": "numeric"})


def test_a_file_that_is_no_profile() -> None:
    with pytest.raises(ArtifactCorrupt, match="not a reference profile"):
        reference.decode(b"{}")


def test_a_profile_is_small() -> None:
    profile: Profile = build({f"f{n}": normal(seed=n) for n in range(50)}, {})
    assert len(msgspec.structs.replace(profile, sample=None).encode()) < 50_000
    assert len(profile.encode()) < 50_000 + reference.SAMPLE_BYTES * 4 / 3  # base64


def many(rows: int = 4_000, seed: int = 5) -> Part:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows).astype(np.float32)
    x[:20] = [np.nan, np.inf, -np.inf, 1e9, -1e9] * 4
    words = np.array([b"", *(f"w{n}".encode() for n in range(3_000))], object)[rng.zipf(1.4, rows) % 3_001]
    time = np.arange(rows) * 600.0
    return Part({"x": x, "word": words, "code": rng.integers(0, 4, rows)}, rng.random(rows), time=time)


def some(part: Part, rows: slice | np.ndarray) -> Part:
    def of(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[rows]

    return Part({name: column[rows] for name, column in part.values.items()}, of(part.prediction), None, of(part.time))


def cut(part: Part, cuts: list[int]) -> list[Part]:
    return [some(part, slice(a, b)) for a, b in zip([0, *cuts], [*cuts, part.rows], strict=True)]


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 4_000), max_size=6).map(sorted), share=st.sampled_from([1.0, 0.3]))
def test_any_parts_give_the_same_profile(cuts: list[int], share: float) -> None:
    whole = many()
    numbers = np.flatnonzero(np.random.default_rng(2).random(whole.rows) < share)
    once = of_parts(some(whole, numbers), numbers, [whole], {}, block_s=3_600.0)
    assert of_parts(some(whole, numbers), numbers, cut(whole, cuts), {}, block_s=3_600.0).encode() == once.encode()
    if share == 1.0:
        assert build(whole.values, {}, prediction=whole.prediction, time=whole.time, block_s=3_600.0) == once


def test_a_sample_decides_the_inner_edges_and_nothing_else() -> None:
    """Range, counts and missing values are those of all rows, and each row has the cell that live rows have."""
    whole = many()
    numbers = np.arange(100, whole.rows, 2)  # without the extremes
    profile = of_parts(some(whole, numbers), numbers, cut(whole, [1_000, 3_000]), {})
    law = profile.features["x"]
    assert (law.low, law.high) == (-1e9, 1e9) and law.rows == profile.rows == 4_000
    for name in ("x", "code", "_prediction"):
        assert profile.features[name].count(whole.columns[name]).tolist() == list(profile.features[name].counts)
    assert max(law.counts) / min(law.counts[1:-2]) < 1.5
    assert profile.notes[-2].startswith(
        "all 4000 rows are counted; the edges of bins and the categories come from 1950"
    )


def test_a_word_that_the_sample_has_once_counts_as_unseen_once() -> None:
    """It was unseen to all other rows of the sample; rows outside it that have the word have seen it."""
    words = np.array([b"often"] * 1_000 + [b"once"] + [b"often"] * 999 + [b"once"] * 5, object)
    numbers = np.arange(2_000)
    law = of_parts(Part({"w": words[:2_000]}), numbers, [Part({"w": words})], {}).features["w"]
    assert law.categories == ("often", "once")  # as one of the most common it has a cell
    names = np.array([f"n{n}".encode() for n in range(20)] * 100 + [b"once"] * 6, object)
    law = of_parts(Part({"w": names[:2_001]}), np.arange(2_001), [Part({"w": names})], {}).features["w"]
    assert law.counts == (*[100] * 10, 10 * 100 + 5, 1, 0)


def test_a_sample_without_numbers_still_has_a_range() -> None:
    values = np.concatenate([np.full(2_000, np.nan), [3.0, -2.0]])
    law = of_parts(Part({"x": values[:2_000]}), np.arange(2_000), [Part({"x": values})], {}).features["x"]
    assert (law.low, law.high, law.counts) == (-2.0, 3.0, (0, 2, 0, 2_000))


def test_kinds_that_nobody_declared() -> None:
    rng = np.random.default_rng(8)
    values = {
        "text": np.array(["a", "b"] * 1_000, object),
        "flag": rng.random(2_000) < 0.5,
        "code": np.where(rng.random(2_000) < 0.1, np.nan, rng.integers(0, 7, 2_000)),
        "count": rng.poisson(20, 2_000),
        "half": rng.integers(0, 3, 2_000) / 2,
        "few": np.full(2_000, np.nan),
        "said": rng.integers(0, 3, 2_000),
    }
    profile = build(values, {"said": "numeric"})
    kinds = {name: law.kind for name, law in profile.features.items()}
    assert [name for name, kind in kinds.items() if kind == "categorical"] == ["text", "flag", "code"]
    sentence = (
        "kinds that nobody declared are guessed from the values (numeric: count, half, few; categorical: flag, code)"
    )
    assert profile.notes[-1] == sentence
    assert decode(profile.encode()).notes == profile.notes


def test_a_time_that_is_not_in_seconds_is_refused_before_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitors.tally.MAX_BLOCKS", 1_000)
    with pytest.raises(PublishRefused, match="more than 1000 blocks of time, expected fewer: is its time in seconds"):
        build({"x": np.zeros(1_001)}, {"x": "numeric"}, time=np.arange(1_001) * 86400e3)


def test_correlation_time_is_kept_and_read_back() -> None:
    rng = np.random.default_rng(9)
    level = np.repeat(np.sin(np.arange(200) / 6), 100)
    values = {"slow": level + rng.normal(size=20_000), "quick": rng.normal(size=20_000)}
    profile = build(values, {}, time=np.arange(20_000) * 36.0, block_s=3_600.0)
    assert profile.features["quick"].correlation_s == 0
    assert 4 * 3_600 < profile.features["slow"].memory_s < 200 * 3_600
    assert decode(profile.encode()) == profile
    assert build({"x": rng.normal(size=2_000)}, {}).features["x"].correlation_s is msgspec.UNSET
    assert b"correlation_s" not in build({"x": rng.normal(size=2_000)}, {}).encode()
