import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.demo.traffic import Traffic, rfc3339, ticks

SECONDS = st.floats(0, 1e6, allow_nan=False)


def traffic(times: list[float], delays: list[float | None]) -> Traffic:
    at = np.array(sorted(times))
    late = np.array([np.nan if delay is None else delay for delay in delays], float)
    ids = [f"r{i}" for i in range(len(times))]
    labels = np.where(np.isnan(late), np.nan, 1.0)
    return Traffic(ids, ids, at, np.zeros((len(times), 1), np.float32), at + late, labels)


@given(st.lists(st.tuples(SECONDS, st.none() | SECONDS), min_size=1, max_size=50), st.floats(1, 1e5))
def test_every_request_and_label_is_in_one_tick_and_no_label_before_its_request(
    rows: list[tuple[float, float | None]], tick_s: float
) -> None:
    replayed = traffic([time for time, _ in rows], [delay for _, delay in rows])
    sent: list[int] = []
    labelled: list[int] = []
    for tick in ticks(replayed, tick_s):
        sent += tick.requests
        assert set(tick.labels) <= set(sent)
        labelled += tick.labels
    assert sent == list(range(len(rows)))
    assert sorted(labelled) == np.flatnonzero(np.isfinite(replayed.label_times)).tolist()


def test_a_label_is_known_in_the_tick_of_its_time() -> None:
    (first, second, third) = ticks(traffic([0, 10, 65], [130, 20, None]), 60)
    assert (first.labels, second.labels, third.labels) == ([1], [], [0])
    assert third.start == 120


def test_between_leaves_out_what_is_not_known_by_then() -> None:
    part = traffic([0, 10, 65, 100], [130, 20, None, 1]).between(5, 100)
    assert part.ids == ["r1", "r2"]
    assert part.labelled == 1
    assert traffic([0, 10], [50, 50]).between(0, 60).labelled == 1


def test_times_are_rfc_3339() -> None:
    assert rfc3339(1364774400) == "2013-04-01T00:00:00.000Z"
