"""Links: near ones always, far ones up to a bound, by ranks that no other's coming or going changes."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serving.locality import chosen, elsewhere

NAMES = st.sets(st.text(min_size=1, max_size=8), max_size=40)


@given(NAMES, NAMES, st.integers(1, 20))
def test_near_ones_always_and_as_many_far_ones_as_there_is_room_for(near: set[str], far: set[str], most: int) -> None:
    far -= near
    links = chosen("g", near, far, most)
    assert near <= links <= near | far
    assert len(links & far) == min(len(far), max(0, most - len(near)))


@given(NAMES, st.text(min_size=1), st.integers(1, 20))
def test_one_that_comes_or_goes_moves_one_link_at_most(far: set[str], new: str, most: int) -> None:
    without, beside = chosen("g", (), far - {new}, most), chosen("g", (), far | {new}, most)
    assert len(without - beside) <= 1 and beside - without <= {new}


@given(NAMES, st.integers(1, 20))
def test_the_order_in_which_they_are_known_does_not_matter(far: set[str], most: int) -> None:
    assert chosen("g", (), sorted(far), most) == chosen("g", (), sorted(far, reverse=True), most)


def test_many_gateways_spread_over_all_replicas() -> None:
    """300 gateways with 10 links each to 100 replicas: 30 a replica, five standard deviations to either side."""
    replicas = [f"m-1-{n:04x}" for n in range(100)]
    links = Counter(one for gateway in range(300) for one in chosen(f"node-{gateway}/0", (), replicas, 10))
    deviation = (300 * 0.1 * 0.9) ** 0.5
    assert sum(links.values()) == 3000
    assert all(abs(links[one] - 30) < 5 * deviation for one in replicas)


@dataclass(frozen=True)
class Placed:
    host: str
    state: str = "ready"


def test_elsewhere_is_another_node_if_there_is_one_though_it_may_be_busy() -> None:
    own, near, far = Placed(""), Placed(""), Placed("there")
    assert elsewhere([own, far], [own, near, far], "") == [far]
    assert elsewhere([own, near], [own, near, far], "") == []
    assert elsewhere([own, near], [own, near], "") == [own, near]


def test_nobody_waits_for_another_node_that_does_not_answer() -> None:
    own, silent = Placed(""), Placed("there", "suspect")
    assert elsewhere([own, silent], [own, silent], "") == [own, silent]
