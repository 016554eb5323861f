import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.metrics import Plan
from monitors.tables import WHOLE, Tables, key
from serving.manifest import Segment

SEGMENTS = (Segment("a", values=("x", "y")), Segment("b", edges=(0.0,)))  # 3 x 3 codes
PLAN = Plan("classification")

Row = tuple[float, float, int, int]  # score, label, code, node

rows = st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0]), st.integers(0, 8), st.integers(0, 2))


def follow(tables: Tables, part: list[Row], sign: int = 1) -> None:
    scores, labels, codes, _ = (np.array(column) for column in zip(*part, strict=True))
    tables.follow(scores, labels, np.full(len(part), sign), codes)
    if sign > 0:
        tables.offer(scores, codes.astype(np.uint16))


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, min_size=1, max_size=20))
def test_nodes_add_up_and_each_feature_divides_the_whole(drawn: list[Row]) -> None:
    once, nodes = Tables(PLAN, SEGMENTS), [Tables(PLAN, SEGMENTS) for _ in range(3)]
    follow(once, drawn)
    for row in drawn:
        follow(nodes[row[3]], [row])
    total = nodes[0].copy()
    for other in nodes[1:]:
        total.add(other)
    assert total == once
    for number in range(2):
        parts = [once.of(key(number, cell)) for cell in range(3)]
        assert (np.sum(parts, 0) == once.of(WHOLE)).all()
        assert sum(once.offered.get(key(number, cell), (0, 0))[0] for cell in range(3)) == len(drawn)
    follow(once, drawn, -1)
    assert not any(once.of(at).any() for at in once.sums)


def test_a_copy_stays_as_it_was_and_another_declaration_is_not_added() -> None:
    tables = Tables(PLAN, SEGMENTS)
    before = tables.copy()
    follow(tables, [(0.9, 1.0, 0, 0)])
    assert not before.sums and not before.offered
    other = Tables(Plan("classification", threshold=0.1), SEGMENTS)
    follow(other, [(0.9, 1.0, 0, 0)])
    after = tables.copy()
    tables.add(other)
    assert tables == after
