import re
from xml.etree import ElementTree

from monitors.backtest.markup import el
from monitors.backtest.page import page
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
