import msgspec
import numpy as np
import pytest

from monitors.drift.watch import KEPT_BLOCKS, WINDOW_BLOCKS, Past, SavedWatch, Watch
from monitors.explain.explaining import explain, explain_version, ranked
from monitors.explain.explanation import Explanation
from monitors.marginal import Marginal
from monitors.reference import marginal
from serving.protocol import Array
from tests.monitors.explain.faults import Law, carriers, celsius, miles, reference

DAY = 86400.0
THRESHOLD = float(np.log(1_000))


def watched(law: Law, changed: int, blocks: int, *, times: float = 1.0, plus: float = 0.0, seed: int = 2) -> Watch:
    """Days of 300 rows, from day `changed` on by another scale."""
    watch, rng = Watch(reference(law), 0.02), np.random.default_rng(seed)
    for day in range(blocks):
        rows = law(rng, 300)
        judge(watch, rows * times + plus if day >= changed else rows, day)
    return watch


def judge(watch: Watch, rows: Array, day: int) -> None:
    watch.judge(watch.law.count(rows), DAY * (day + 1), THRESHOLD, 10)


def explained(watch: Watch, name: str = "x") -> Explanation:
    return explain(name, watch.law, watch.past(THRESHOLD))


def alarmed(counts: list[list[int]]) -> Past:
    """Days with these counts and without evidence, of which the last raised an alarm."""
    ends = [DAY * (day + 1) for day in range(len(counts))]
    return Past(counts=counts, ends=ends, log_e=[], threshold=0.0, since=max(ends, default=0.0), onset=None, split=1.0)


def test_an_alarm_says_since_when_which_way_and_by_how_much() -> None:
    found = explained(watched(celsius, 20, 26, plus=6.0), "temp")
    assert found.alarm and found.onset is not None and found.onset.at == 20 * DAY
    assert found.direction == "higher"
    assert found.median is not None
    before, now = found.median
    assert before.value == pytest.approx(15, abs=0.5) and now.value == pytest.approx(21, abs=0.8)
    assert found.rows == 1800 and found.blocks == 6
    assert found.moved == pytest.approx(0.29, abs=0.05)  # of a normal law shifted by 0.75 sigma
    assert sum(cell.moved for cell in found.cells) == pytest.approx(1.0)
    assert found.text.startswith("temp is higher than in the reference since about Wed 21 Jan 1970.")
    assert "Its median went from 14.92 to 21.42." in found.text and "of its last 1,800 rows lie elsewhere" in found.text


@pytest.mark.parametrize(
    ("times", "plus", "direction"), [(1, 5, "higher"), (1, -5, "lower"), (1.6, -9, "wider"), (0.5, 7.5, "narrower")]
)
def test_directions(times: float, plus: float, direction: str) -> None:
    assert explained(watched(celsius, 20, 30, times=times, plus=plus)).direction == direction


def test_the_time_of_the_change_stays_that_of_the_alarm_when_its_blocks_are_forgotten() -> None:
    watch = watched(celsius, 20, 28, plus=6.0)
    before = explained(watch).onset
    rng = np.random.default_rng(9)
    for day in range(28, 28 + KEPT_BLOCKS):
        judge(watch, celsius(rng, 300) + 6.0, day)
    found = explained(watch)
    assert found.onset == before and found.blocks == WINDOW_BLOCKS and len(found.evidence) == KEPT_BLOCKS


def test_a_larger_change_while_the_alarm_is_on_is_told_as_well() -> None:
    watch, rng = Watch(reference(miles), 0.02), np.random.default_rng(3)
    for day in range(60):  # a little further from day 10 on, in kilometres from day 50 on
        judge(watch, miles(rng, 300) * (1.609344 if day >= 50 else 1.2 if day >= 10 else 1.0), day)
    found = explained(watch)
    assert found.onset is not None and abs(found.onset.at - 10 * DAY) <= DAY
    assert found.again is not None and found.again.at == 50 * DAY
    assert [diagnosis.name for diagnosis in found.diagnoses] == ["unit_change"]
    assert "It changed again, and more, about Fri 20 Feb 1970." in found.text


def test_a_change_that_lasts_is_told_once() -> None:
    for seed in range(10):
        assert explained(watched(celsius, 20, 45, plus=5.0, seed=seed)).again is None


def test_without_an_alarm_nothing_is_said_to_have_changed() -> None:
    found = explained(watched(celsius, 99, 30))
    assert not found.alarm and found.onset is None and found.diagnoses == ()
    assert found.blocks == WINDOW_BLOCKS
    assert found.text.startswith("x: no alarm is on.")


def test_what_was_before_a_quiet_time_is_not_the_next_change() -> None:
    watch, rng = Watch(reference(celsius), 0.02), np.random.default_rng(3)
    for day in range(40):  # warm from day 5 to 9, and again from day 35 on
        judge(watch, celsius(rng, 300) + 6.0 * (5 <= day < 10 or day >= 35), day)
    found = explained(watch)
    assert found.onset is not None and found.onset.at == 35 * DAY


def test_a_category_that_vanished_is_named() -> None:
    watch, rng = Watch(reference(carriers), 0.02), np.random.default_rng(3)
    for day in range(20):
        rows = carriers(rng, 400)
        judge(watch, rows[rows != "B6"] if day >= 12 else rows, day)
    found = explained(watch, "carrier")
    assert found.direction == "categories" and found.median is None
    assert found.vanished == ("B6",)
    assert max(found.cells, key=lambda cell: cell.moved).name == "B6"
    assert "No longer seen: B6." in found.text


def test_a_version_is_explained_by_its_features_in_alarm_the_strongest_first() -> None:
    watches = {"mild": watched(celsius, 20, 30, plus=4.0), "strong": watched(celsius, 20, 30, plus=20.0),
               "quiet": watched(celsius, 99, 30)}  # fmt: skip
    laws = {name: watch.law for name, watch in watches.items()}
    pasts = {name: watch.past(THRESHOLD) for name, watch in watches.items()}
    assert ranked(pasts) == ["strong", "mild", "quiet"]
    assert [found.feature for found in explain_version(laws, pasts)] == ["strong", "mild"]


def test_swapped_columns_are_found_among_the_features_of_a_version() -> None:
    rng = np.random.default_rng(7)
    watches = {"a": Watch(reference(celsius), 0.02), "b": Watch(reference(miles), 0.02)}
    for day in range(20):
        one, other = celsius(rng, 400), miles(rng, 400)
        judge(watches["a"], other if day >= 10 else one, day)
        judge(watches["b"], one if day >= 10 else other, day)
    laws = {name: watch.law for name, watch in watches.items()}
    found = explain_version(laws, {name: watch.past(THRESHOLD) for name, watch in watches.items()})
    assert [one.diagnoses[0].name for one in found] == ["swapped_columns"] * 2


def test_counts_alone_are_enough() -> None:
    law, rng = reference(miles), np.random.default_rng(3)
    counts = [law.count(miles(rng, 500) * (10 if day >= 4 else 1)).tolist() for day in range(8)]
    found = explain("far", law, alarmed(counts))
    assert found.onset is not None and found.onset.at == 4 * DAY
    assert [diagnosis.name for diagnosis in found.diagnoses] == ["unit_change"]
    assert found.evidence == () and "nats" not in found.text


def test_a_feature_without_a_row_cannot_be_explained() -> None:
    law = reference(miles)
    with pytest.raises(ValueError, match="feature 'x' has no row in its last 0 blocks"):
        explain("x", law, alarmed([]))


def test_an_explanation_is_json_and_back() -> None:
    found = explained(watched(celsius, 20, 26, plus=60.0))
    assert found.median is not None and str(found.median[1]).startswith("above ")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Explanation) == found


def test_state_of_an_earlier_release_is_taken_up() -> None:
    watch = watched(celsius, 20, 24)
    old = msgspec.to_builtins(watch.save())[:7]  # without ends, evidence and onset
    old[3] = old[3][-WINDOW_BLOCKS:]
    watch.load(msgspec.convert(old, SavedWatch))
    rng = np.random.default_rng(4)
    for day in range(24, 30):
        judge(watch, celsius(rng, 300) + 20.0 * (day >= 26), day)
    found = explained(watch)
    assert found.onset is not None and found.onset.at == 26 * DAY


def test_a_law_without_known_medians_explains_as_well() -> None:
    rng = np.random.default_rng(1)
    law: Marginal = msgspec.structs.replace(marginal(miles(rng, 6000), "numeric"), medians=())
    counts = [law.count(miles(rng, 500) * (10 if day >= 4 else 1)).tolist() for day in range(8)]
    found = explain("far", law, alarmed(counts))
    assert [diagnosis.name for diagnosis in found.diagnoses] == ["unit_change"]
