import msgspec
import pytest

from monitors.book import DELAYS_S, Book, Version
from monitors.labels import Match, Prediction, Truth
from monitors.slot import LOSS_UNIT
from serving.manifest import Prediction as Output
from serving.manifest import Segment
from tests.monitors.traffic import manifest, profile


def match(value: float, before: Truth | None, after: Truth | None) -> Match:
    return Match(Prediction("m", "r", 0, "", "1", 0, value, 100.0), before, after)


def test_a_label_that_is_joined_corrected_and_taken_away_leaves_nothing() -> None:
    book = Book("d", "classification")
    old, new = Truth(160.0, 1.0), Truth(1000.0, 0.0)
    assert book.follow([match(0.25, None, old)]) == [(1, round(0.5625 / LOSS_UNIT))]
    assert (book.joined, book.mean_loss, book.delay_s) == (1, 0.5625, 60.0)
    assert book.follow([match(0.25, old, new)]) == [(0, round((0.0625 - 0.5625) / LOSS_UNIT))]
    assert (book.joined, book.mean_loss, book.corrected) == (1, 0.0625, 1)
    book.follow([match(0.25, new, None)])
    assert (book.joined, book.loss, book.mean_loss, book.delay_s, sum(book.delays)) == (0, 0, None, 0.0, 0)


def test_a_regression_is_measured_on_the_scale_of_its_reference() -> None:
    book = Book("d", "regression", cap=4.0)
    book.follow([match(1.0, None, Truth(100.0, 3.0)), match(1.0, None, Truth(100.0, 99.0))])
    assert book.mean_loss == 0.75


@pytest.mark.parametrize("delay_s", [0.5, 1.0, 60.0, 3600.0, 90000.0])
def test_quantiles_of_the_delay_are_right_to_a_factor_of_1_2(delay_s: float) -> None:
    book = Book("d", "classification")
    book.follow([match(0.5, None, Truth(100.0 + delay_s, 1.0))] * 9)
    found = book.delay_quantile_s(0.5)
    assert found is not None
    assert max(found, DELAYS_S[0]) / max(delay_s, DELAYS_S[0]) == pytest.approx(1.0, abs=0.2)
    assert book.delay_quantile_s(0.99) == found


def test_labels_are_expected_while_predictions_are_young_and_no_more_than_usually_come() -> None:
    book = Book("d", waiting={0: 100})
    assert book.still_expected(1.0, 1.0) == 100.0  # nothing is known yet: all of them
    book.due, book.due_labelled = 100, 60
    book.delays[DELAYS_S.index(64.0)] = 30  # a minute, half of them; an hour, the others
    book.delays[DELAYS_S.index(4096.0)] = 30
    young, older, old = (book.still_expected(age + 0.5, 1.0) for age in (10.0, 1000.0, 10_000.0))
    assert (young, round(older, 6), old) == (60.0, round(100 * 0.3 / 0.7, 6), 0.0)


def test_another_declaration_of_the_same_content_is_another_book() -> None:
    version = Version(manifest("1"), profile())
    assert Book.of(version).fits(version)
    for change in (
        {"threshold": 0.3},
        {"quantile": 0.9},
        {"segments": (Segment("x0", edges=(0.0,)),)},
        {"kpi_range": (0.0, 1.0)},
    ):
        assert not Book.of(version).fits(Version(msgspec.structs.replace(manifest("1"), **change), profile()))


def test_a_version_says_what_of_it_is_not_monitored() -> None:
    whole = Version(manifest("1"), profile())
    assert whole.takes_labels
    assert whole.notes == ()
    bare = Version(manifest("1", monitored=False))
    assert not bare.takes_labels
    assert len(bare.notes) == 4
    regression = msgspec.structs.replace(manifest("1"), task="regression", prediction=Output("p"))
    assert not Version(regression).takes_labels
    assert Version(regression, profile()).takes_labels
    assert any("scale of a regression" in note for note in Version(regression).notes)
    broken = Version(manifest("1"), broken="got digest a, expected b")
    assert broken.notes == ("drift is not monitored: got digest a, expected b",)
