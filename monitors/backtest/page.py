"""A backtest as one page of HTML that needs nothing else: what would have called somebody, when, and why."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from monitors.alarm import Severity
from monitors.backtest.document import Alarm, Document, File, shown
from monitors.backtest.harm import harm
from monitors.backtest.markup import Markup, el
from monitors.backtest.shares import pairs
from monitors.backtest.states import MOST, left_out, legend, state_map, state_table, states
from monitors.backtest.words import self_test
from monitors.budget import ALL, COVERAGE, QUALITY, RISK
from monitors.checkup import CALIBRATION
from monitors.drift.joint import JOINT
from monitors.explain.cells import percent
from monitors.fairness import TooFew
from monitors.reference import PREDICTION
from monitors.scorecard import Metrics

_CSS = Path(__file__).with_name("page.css")
_BADGES: dict[Severity, str] = {"page": "▲ PAGE", "ticket": "■ TICKET", "info": "● EXPLAINS"}
_MEANINGS: dict[Severity, str] = {
    "page": "pages: somebody is called at once, users are harmed now",
    "ticket": "tickets: somebody looks in working hours",
    "info": "explanations: call nobody, and say why the others may have",
}
_NAMES = {PREDICTION: "prediction"}
_LOSSES = {
    "classification": (
        "Brier loss",
        "The Brier loss is the squared distance of a probability from what came: 0 is perfect, and whoever always says"
        " 50 % loses 0.25.",
    ),
    "regression": (
        "absolute error over its cap",
        "An error of the cap, which 99 in 100 rows of the reference stay below, or a larger one, is a loss of 1.",
    ),
}
_SUBJECTS = {
    RISK: "Harm: the loss rose",
    ALL: "Drift of all features together",
    JOINT: "Drift of features together",
    PREDICTION: "Drift of the prediction",
    QUALITY: "Data quality",
    COVERAGE: "Labels stay away",
    CALIBRATION: "Probabilities that are not believable",
}


def page(document: Document) -> str:
    """The whole page."""
    title = f"Backtest of {document.data.name}"
    head = el("head", el("meta", charset="utf-8"), el("meta", name="viewport", content="width=device-width"),
              el("title", title), el("style", Markup(_CSS.read_text())))  # fmt: skip
    parts = [
        part
        for section in (_summary, _called, _harm, _states, _explains, _metrics, _quality, _settings)
        for part in section(document)
    ]
    return "<!doctype html>\n" + el("html", head, el("body", el("main", *parts)), lang="en")


def _summary(document: Document) -> Iterator[Markup]:
    first, last = document.blocks[0].start, document.blocks[-1].end
    yield el("h1", f"What would have alarmed: {document.data.name}")
    yield el("p", f"{shown(first)} to {shown(last)}, {document.data.rows:,} rows in {len(document.blocks):,} blocks,"
                  f" against {document.reference.name} ({document.reference.rows:,} rows)", class_="soft")  # fmt: skip
    yield el("p", _in_short(document), class_="lead")
    counts = Counter(alarm.severity for alarm in document.alarms)
    tiles = [
        el("div", el("b", str(counts[severity])), meaning, class_=f"tile {severity}")
        for severity, meaning in _MEANINGS.items()
    ]
    yield el("div", *tiles, class_="tiles")


def _in_short(document: Document) -> str:
    """What a product manager takes home."""
    pages = [alarm for alarm in document.alarms if alarm.severity == "page"]
    tickets = sum(alarm.severity == "ticket" for alarm in document.alarms)
    if not pages:
        nobody = "Nobody would have been called at night."
        return f"{nobody} {_many(tickets, 'ticket')} would have been opened." if tickets else nobody
    days = ", ".join(alarm.raised for alarm in pages[:6])
    more = f" and {len(pages) - 6} more times" if len(pages) > 6 else ""
    return f"Somebody would have been called {_many(len(pages), 'time')}: {days}{more}. {_many(tickets, 'ticket')}."


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _called(document: Document) -> Iterator[Markup]:
    yield el("h2", "Who would have been called, and why")
    calling = [alarm for alarm in document.alarms if alarm.severity != "info"]
    order: list[Severity] = ["page", "ticket"]
    for severity in order:
        yield from (_alarm(alarm) for alarm in calling if alarm.severity == severity)
    if not calling:
        yield el("p", "No alarm pages or opens a ticket in this time.", class_="soft")


def _alarm(alarm: Alarm) -> Markup:
    title = el("h3", el("span", _BADGES[alarm.severity], class_=f"badge {alarm.severity}"),
               _SUBJECTS.get(alarm.subject, alarm.subject),
               el("span", f"{alarm.raised}, {alarm.cleared}", class_="when"))  # fmt: skip
    first, point, rest = alarm.explanation.partition(". ")
    parts = [title, el("p", el("b", first, point), rest)]
    if alarm.shifts:
        key = "Shares of the rows: the upper bar is the reference, the lower bar what it was then."
        of_one = alarm.shifts[0].explanation == alarm.explanation  # and said already
        figures = el("div", *(pairs(shift, said=not of_one) for shift in alarm.shifts), class_="all-bars")
        parts.append(el("details", el("summary", "What the rows looked like"), el("p", key, class_="soft"), figures))
    return el("article", *parts, class_=f"alarm {alarm.severity}")


def _harm(document: Document) -> Iterator[Markup]:
    picture = harm(document)
    yield el("h2", "Harm")
    if picture is None or document.risk is None:
        yield el("p", "Risk was not judged; the notes below say why.", class_="soft")
        return
    risk = document.risk
    loss, meaning = _LOSSES[risk.task]
    yield el("p", f"The mean {loss} of each block (dot) with its 95 % interval, and of the last ten blocks (line)."
                  f" On the reference it was {risk.reference:.3f}; up to {risk.bound:.3f} is allowed. Below: the"
                  " evidence that more is to be expected, in nats; where it reaches the dashed line, somebody is"
                  " called, and the alarm stays on (shaded) until enough quiet blocks have passed.")  # fmt: skip
    yield el("p", f"{meaning} The interval holds, with probability 0.95, the loss that the block's rows were drawn"
                  " with, if they are independent given what all of them share, such as the day's weather"
                  " (Maurer & Pontil 2009).",
             class_="soft")  # fmt: skip
    yield el("div", picture, class_="scroll")


def _states(document: Document) -> Iterator[Markup]:
    yield el("h2", "What was watched")
    yield el("p", "Every row is something that is judged, every column a block. The stronger the blue, the further the"
                  " block's rows are from the reference (population stability index, PSI); an orange stripe says that"
                  " an alarm was on. Blue alone is no alarm: where blocks of the reference differ as much, it is to be"
                  " expected.")  # fmt: skip
    rows, rest = states(document)
    yield legend()
    yield el("div", state_map(document, rows), class_="scroll")
    if rest:
        yield el("p", left_out(rest), class_="soft")
    yield el("details", el("summary", "The same as a table: largest PSI of a block, and alarms"),
             el("div", state_table(document, rows | rest), class_="scroll"))  # fmt: skip


def _explains(document: Document) -> Iterator[Markup]:
    found = [alarm for alarm in document.alarms if alarm.severity == "info"]
    yield el("h2", "Drift that explains, and calls nobody")
    if not found:
        yield el("p", "No single feature was in alarm.", class_="soft")
    for name in dict.fromkeys(alarm.subject for alarm in found):
        own = [alarm for alarm in found if alarm.subject == name]
        said = f"{_SUBJECTS.get(name, name)}: {_many(len(own), 'alarm')}, the first on {own[0].raised}"
        yield el("details", el("summary", said), *map(_alarm, own))


def _metrics(document: Document) -> Iterator[Markup]:
    found = document.metrics
    if not found.metrics:
        return
    yield el("h2", "How good the predictions were")
    yield el("p", f"Of all labels in the file, in time or not; {found.assumption}.")
    for feature, segments in (found.segments or {"": {}}).items():
        columns: dict[str, Metrics | TooFew] = {"all rows": found.metrics, **segments}
        head = el("tr", *(el("th", name) for name in (feature, *columns)))
        rows = [
            el("tr", el("td", name), *(_value(metrics, name) for metrics in columns.values())) for name in found.metrics
        ]
        yield el("div", el("table", head, *rows), class_="scroll")


def _value(metrics: Metrics | TooFew, name: str) -> Markup:
    if isinstance(metrics, str) or name not in metrics:
        return el("td", "too few")
    metric = metrics[name]
    return el("td", f"{metric.value:.3f}", el("div", f"{metric.lower:.3f} to {metric.upper:.3f}", class_="soft"))


def _quality(document: Document) -> Iterator[Markup]:
    yield el("h2", "Data quality")
    yield el("p", "Shares of the rows that have no value, or one that the reference does not know: over all blocks,"
                  " and in the worst one. Features without any are left out.")  # fmt: skip
    head = [
        el("th", text)
        for text in ("feature", "share", "reference", "all blocks", "worst block", "which was", "blocks with any")
    ]
    found = sorted(_worst(document), key=lambda pair: -pair[0])
    rows = [el("tr", *(el("td", text) for text in row)) for _, row in found[:MOST]]
    if not rows:
        yield el("p", "Every row of every feature has a value that the reference knows.", class_="soft")
        return
    yield el("div", el("table", el("tr", *head), *rows), class_="scroll")
    if len(found) > MOST:
        more = f"{len(found) - MOST:,} more are not shown, whose worst block is nearer to the reference."
        yield el("p", more, class_="soft")


def _worst(document: Document) -> Iterator[tuple[float, tuple[str, ...]]]:
    """By how much the worst block exceeds the reference, and what is said of it."""
    blocks = [block for block in document.blocks if block.judged]
    for feature, kinds in blocks[0].quality.items():
        for kind in kinds:
            shares = [block.quality[feature][kind] for block in blocks]
            worst = max(range(len(blocks)), key=shares.__getitem__)
            if shares[worst]:
                mean = sum(share * block.rows for share, block in zip(shares, blocks, strict=True))
                mean /= sum(block.rows for block in blocks)
                known = document.reference_quality[feature][kind]
                said = (_NAMES.get(feature, feature), kind, percent(known), percent(mean), percent(shares[worst]),
                        shown(blocks[worst].start), f"{sum(share > 0 for share in shares):,}")  # fmt: skip
                yield shares[worst] - known, said


def _settings(document: Document) -> Iterator[Markup]:
    yield el("h2", "The promise")
    yield el("p", document.promise)
    yield el("p", self_test(document.selftest),
             class_="failed" if document.selftest.failed else "soft")  # fmt: skip
    if document.notes:
        yield el("details", el("summary", _many(len(document.notes), "note")),
                 el("ul", *(el("li", note) for note in document.notes)))  # fmt: skip
    yield el("h2", "Settings")
    files = [("reference", document.reference), ("data", document.data)]
    settings = [(name, str(value)) for name, value in document.settings.items()]
    rows = [*((what, _file(file)) for what, file in files), *settings, ("Gaugeway", document.gaugeway)]
    yield el("dl", *(part for name, value in rows for part in (el("dt", name), el("dd", value))))


def _file(file: File) -> str:
    return f"{file.name}, {file.rows:,} rows, sha256 {file.sha256}"
