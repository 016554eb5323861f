"""An explanation as a few sentences for people who know the feature, and no statistics."""

from datetime import UTC, datetime

from monitors.drift.change import Onset
from monitors.explain.cells import number, percent
from monitors.explain.explanation import Carrier, Cell, Explanation, Rise
from monitors.profile import PREDICTION

CARRIERS = 3  # cells that are named, and features that carry a rise
MOSTLY = 0.8  # of what cells carry: the other part is not told
_DAY = 86400.0


def sentences(found: Explanation) -> str:
    """When, which way, how far, where, and what is probably broken."""
    parts = [_what(found), _moved(found), _vanished(found), *(one.sentence for one in found.diagnoses)]
    return " ".join(filter(None, [*parts, _evidence(found)]))


def carried(found: Carrier) -> str:
    """Which rows carry how much of a rise, and whether there are more of them or they are predicted worse."""
    what = "a prediction of" if found.feature == PREDICTION else found.feature
    return (
        f"{_share(found)} comes from rows with {what} {found.where}, which are {percent(found.now)} of the rows:"
        f" {_why(found)}."
    )


def _share(found: Carrier) -> str:
    lower, upper = (percent(min(bound, 1.0)) for bound in (found.lower, found.upper))
    if found.share >= 1.005:
        return f"More than all of the rise (at least {lower}), since other rows lower the loss,"
    share = "All" if found.share >= 0.995 else percent(found.share)
    return f"{share} of the rise ({lower} to {upper})"


def _why(found: Carrier) -> str:
    moved = f"there are {'more' if found.now > found.reference else 'fewer'} of them than before"
    moved = f"{moved} ({percent(found.reference)})"
    before = "the reference has none" if found.loss_before is None else f"{number(found.loss_before)} before"
    worse = f"they are predicted worse (mean loss {number(found.loss)}, {before})"
    return moved if found.mix > MOSTLY else worse if found.mix < 1 - MOSTLY else f"{moved}, and {worse}"


def risen(found: Rise) -> str:
    """How far the loss rose, and which rows carry it."""
    rows = f"The {found.rows:,} labelled rows since then have a mean loss of {number(found.now)}"
    means = f"{rows}, those of the reference {number(found.reference)}."
    if found.now <= found.reference:
        return means
    told = [one.text for one in found.carriers if one.text][:CARRIERS]
    if not told:
        return f"{means} No part of a feature's range carries more of the rise than its rows' share, beyond chance."
    views = " These are views of the same rows: their shares do not add up." if len(told) > 1 else ""
    return f"{means} {' '.join(told)}{views}"


def named(feature: str) -> str:
    return "The prediction" if feature == PREDICTION else feature


def when(at: float) -> str:
    """
    >>> when(1378166400.0), when(1378200600.0)
    ('Tue 3 Sep 2013', 'Tue 3 Sep 2013 09:30 UTC')
    """
    moment = datetime.fromtimestamp(at, UTC)
    day = f"{moment:%a} {moment.day} {moment:%b %Y}"
    return day if at % _DAY == 0 else f"{day} {moment:%H:%M} UTC"


def _what(found: Explanation) -> str:
    name = named(found.feature)
    if not found.alarm:
        return f"{name}: no alarm is on. This is how its last {found.blocks} blocks stand beside the reference."
    assert found.onset is not None
    words = {
        "higher": "is higher", "lower": "is lower", "wider": "is spread wider", "narrower": "is less spread",
        "otherwise": "is distributed in another way", "categories": "has other shares of its values",
    }  # fmt: skip
    again = f" It changed again, and more, {since(found.again)}." if found.again else ""
    return f"{name} {words[found.direction]} than in the reference since {since(found.onset)}.{again}"


def since(onset: Onset) -> str:
    about = f"about {when(onset.at)}"
    if onset.earliest == onset.latest:
        return about
    return f"{about} (between {when(onset.earliest)} and {when(onset.latest)})"


def _moved(found: Explanation) -> str:
    """The median, the share of the rows that moved, and the cells that carry it."""
    median = ""
    if found.median is not None:
        before, now = map(str, found.median)
        median = f"Its median stayed at {now}. " if before == now else f"Its median went from {before} to {now}. "
    rows = f"{percent(found.moved)} of its last {found.rows:,} rows lie elsewhere than in the reference"
    carriers = sorted(found.cells, key=lambda cell: -cell.moved)[:CARRIERS]
    named = ", ".join(_cell(cell) for cell in carriers if cell.moved >= 0.05)
    return f"{median}{rows}{': ' + named if named else ''}."


def _cell(cell: Cell) -> str:
    return f"{cell.name} {percent(cell.reference)} → {percent(cell.now)}"


def _vanished(found: Explanation) -> str:
    return f"No longer seen: {', '.join(found.vanished)}." if found.vanished else ""


def _evidence(found: Explanation) -> str:
    if not found.evidence or not found.threshold:
        return ""
    most = max(0.0, *(point.log_e for point in found.evidence))
    return f"(Evidence of up to {most:.1f} nats; {found.threshold:.1f} raise an alarm.)"
