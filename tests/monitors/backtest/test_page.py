import re
from xml.etree import ElementTree

import msgspec

from monitors.backtest.markup import el
from monitors.backtest.page import page
from monitors.selftest import SelfTest
from tests.monitors.backtest.history import EVIL, document

PAGE = page(document())
TREE = ElementTree.fromstring(PAGE.removeprefix("<!doctype html>\n"))


def text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    assert "<script" not in PAGE and not re.search(r"\b(src|href|url|@import)\b", PAGE)
    assert {element.tag for element in TREE.iter() if "http" in str(element.attrib)} == set()


def test_every_alarm_is_there_with_its_words() -> None:
    articles = [text(article) for article in TREE.iter("article")]
    assert len(articles) == len(document().alarms)
    for alarm in document().alarms:
        assert any(alarm.raised in said and alarm.explanation in said for said in articles)
    calling = [a for a in document().alarms if a.severity == "page"]
    assert f"Somebody would have been called {len(calling)} time" in text(TREE)


def test_pages_come_first() -> None:
    kinds = [article.attrib["class"] for article in TREE.iter("article")]
    order = ["alarm page", "alarm ticket", "alarm info"]
    assert kinds == sorted(kinds, key=order.index) and kinds[0] == "alarm page"


def test_pictures_have_titles_and_the_map_is_a_table_too() -> None:
    assert all(svg.find("title") is not None for svg in TREE.iter("svg"))
    tables = [text(table) for table in TREE.iter("table")]
    assert any(EVIL in said and "ALARM" in said and "harm" in said for said in tables)


def test_metrics_stand_by_segment() -> None:
    (table,) = (table for table in TREE.iter("table") if "brier" in text(table))
    metric = document().metrics.metrics["brier"]
    assert [text(cell) for cell in table.iter("th")][:2] == ["carrier", "all rows"]
    assert {text(cell) for cell in table.iter("th")} >= {"AA", "B6", "UA"}
    assert f"brier{metric.value:.3f}{metric.lower:.3f} to {metric.upper:.3f}" in text(table)


def test_light_and_dark_have_the_same_colours() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", PAGE, re.DOTALL)
    names = [set(re.findall(r"(--[\w-]+):", of)) for of in (light, dark)]
    assert names[0] == names[1]
    used = set(re.findall(r"var\((--[\w-]+)\)", PAGE))
    assert used == names[0]


def test_markup_is_escaped_once() -> None:
    assert el("b", "a < b", el("i", "&"), title='"') == '<b title="&quot;">a &lt; b<i>&amp;</i></b>'


def test_the_monitors_test_of_itself_is_told() -> None:
    assert "The monitor's test of itself passed: of one half" in text(TREE)
    failed = page(msgspec.structs.replace(document(), selftest=SelfTest("failed", "passed", 60, 30, 30, 0)))
    assert "test of itself failed" in failed and "do not rely on this report" in failed
    never = page(msgspec.structs.replace(document(), selftest=SelfTest("no_data", "no_data", 0, 0, 0, 0)))
    assert "did not test itself" in never


def changed(**block: object) -> ElementTree.Element:
    found = document()
    blocks = tuple(msgspec.structs.replace(one, **block) for one in found.blocks)
    whole = page(msgspec.structs.replace(found, blocks=blocks, alarms=()))
    return ElementTree.fromstring(whole.removeprefix("<!doctype html>\n"))


def test_of_many_features_the_map_shows_those_that_matter_and_says_so() -> None:
    """Names are cut in the picture and whole in its titles."""
    names = [f"a_name_that_is_much_too_long_for_the_map_{k}" for k in range(300)]
    tree = changed(features=dict.fromkeys(names, document().blocks[0].features[EVIL]))
    assert "260 more features are not shown. None of them was in alarm; the largest PSI" in text(tree)
    shown = [element for element in tree.iter("text") if (element.findtext("title") or "").startswith("a_name")]
    assert len(shown) == 40 and all(len(element[0].tail or "") <= 15 for element in shown)
    assert sum("a_name" in text(row) for row in tree.iter("tr")) == 300


def test_without_features_or_alarms_there_is_a_page_too() -> None:
    tree = changed(features={}, quality={})
    assert "Nobody would have been called at night." in text(tree)
    assert "No alarm pages or opens a ticket in this time." in text(tree)
