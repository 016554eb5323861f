"""Weights in are frequencies out; a key keeps its version; a change of weights moves no key that need not move."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Forbidden, UnknownVersion
from serving.routing import Interval, Policy, Router, initial, rebalance, weights_of

WEIGHTS = (
    st.lists(st.integers(0, 100), min_size=4, max_size=4)
    .filter(any)
    .map(lambda parts: {version: part / sum(parts) for version, part in zip("1234", parts, strict=True)})
)


def _router(weights: dict[str, float], **more: str) -> Router:
    return Router(Policy("m", initial(weights), tuple("12345"), **more))


def _owner(intervals: tuple[Interval, ...], at: float) -> str:
    return next(interval.version for interval in intervals if at < interval.end)


def test_weights_in_are_frequencies_out() -> None:
    weights, n = {"1": 0.7, "2": 0.25, "3": 0.05}, 20_000
    router = _router(weights)
    chosen = [router.choose(f"user-{k}").version for k in range(n)]
    for version, weight in weights.items():
        deviation = (n * weight * (1 - weight)) ** 0.5
        assert abs(chosen.count(version) - n * weight) < 4 * deviation


def test_a_key_keeps_its_version_and_another_salt_draws_anew() -> None:
    one, other = _router({"1": 0.5, "2": 0.5}, salt="a"), _router({"1": 0.5, "2": 0.5}, salt="b")
    keys = [f"user-{k}" for k in range(2000)]
    first = [one.choose(key).version for key in keys]
    assert first == [one.choose(key).version for key in keys]
    differ = sum(a != other.choose(key).version for a, key in zip(first, keys, strict=True))
    assert 860 < differ < 1140


@given(WEIGHTS, WEIGHTS, WEIGHTS)
def test_a_change_moves_exactly_the_least_share(a: dict[str, float], b: dict[str, float], c: dict[str, float]) -> None:
    before = rebalance(initial(a), b)
    after = rebalance(before, c)
    ends = sorted({0.0, *(i.end for i in before), *(i.end for i in after)})
    moved = sum(
        end - start
        for start, end in pairwise(ends)
        if _owner(before, (start + end) / 2) != _owner(after, (start + end) / 2)
    )
    least = sum(max(0.0, b[version] - c[version]) for version in b)
    assert moved == pytest.approx(least, abs=1e-9)
    assert weights_of(after) == pytest.approx({v: w for v, w in c.items() if w}, abs=1e-9)
    assert after[-1].end == 1.0 and all(x.end < y.end for x, y in pairwise(after))
    assert rebalance(after, c) == after  # or the table would change for ever


def test_weights_that_rounding_left_short_of_one_leave_no_key_without_a_version() -> None:
    before = initial({"1": 0.1, "2": 0.9})
    for weights in ({"2": 0.999999}, {"1": 0.333333, "2": 0.333333, "3": 0.333333}, {"2": 1e-7}):
        after = rebalance(before, weights)
        assert {interval.version for interval in after} <= weights.keys()
        assert weights_of(after) == pytest.approx({v: w / sum(weights.values()) for v, w in weights.items()})


def test_reasons_propensities_and_keys() -> None:
    router = _router({"1": 0.75, "2": 0.25})
    plain, sticky = router.choose("alice"), router.choose("alice", sticky=True)
    assert (plain.version, plain.reason, plain.key_hash) == (sticky.version, "weight", 0)
    assert sticky.reason == "sticky" and 0 < sticky.key_hash < 2**64
    assert plain.propensity == {"1": 0.75, "2": 0.25}[plain.version]
    url, override = router.choose("alice", version="5"), router.choose("alice", override="3")
    assert (url.version, url.reason, url.propensity) == ("5", "url", 1.0)
    assert (override.version, override.reason, override.propensity) == ("3", "override", 1.0)
    assert router.choose("alice", version="3", override="3").reason == "url"


def test_what_cannot_be_chosen() -> None:
    router = _router({"1": 1.0})
    with pytest.raises(Forbidden, match="URL names version '1', the header x-gaugeway-version '2'"):
        router.choose("alice", version="1", override="2")
    for url, override in (("9", None), (None, "9")):
        with pytest.raises(UnknownVersion, match="no version '9'; it has '1', '2'"):
            router.choose("alice", version=url, override=override)


def test_any_text_is_a_key() -> None:
    router = _router({"1": 0.5, "2": 0.5})
    for key in ("", "\0", "ü" * 5000, "\ud800"):
        assert router.choose(key).version in "12"
    assert len({router.choose(str(random.Random(k).random())).version for k in range(50)}) == 2
