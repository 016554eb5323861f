"""What is answered to who asks why a version's alarm is on."""

from collections.abc import Mapping

import msgspec

from monitors.aggregator import Verdicts
from monitors.alarm import Severity
from monitors.budget import ALL, COVERAGE, QUALITY, RISK
from monitors.calibration import CalibrationVerdict
from monitors.checkup import CALIBRATION
from monitors.coverage import CoverageVerdict
from monitors.drift.joint import JOINT
from monitors.explain.cells import number, percent
from monitors.explain.explaining import explain, explain_version, ranked
from monitors.explain.explanation import Explanation, Rise
from monitors.explain.rise import explain_rise
from monitors.explain.wording import since, when
from monitors.ledger import Name
from monitors.profile import PREDICTION
from monitors.quality import QualityVerdict
from monitors.risk import RiskVerdict
from serving.errors import GaugewayError, NotFound, UnknownModel, UnknownVersion

EXPLANATION = "/explanation"
CARRY = 3  # features that are named with the alarm of the whole
TITLES = {
    RISK: "Harm",
    QUALITY: "Bad data",
    COVERAGE: "Labels stay away",
    CALIBRATION: "Probabilities that no longer fit the labels",
    ALL: "Drift of the whole",
    JOINT: "Drift of how features go together",
    PREDICTION: "Drift of the prediction",
}


class Inquiry(msgspec.Struct, frozen=True):
    """About a version, or one feature of it; `_prediction` is one."""

    model: str
    version: str
    feature: str = ""


class Raised(msgspec.Struct, frozen=True):
    """An alarm that is on: `_risk`, `_all` or a feature. `since` in seconds since 1970 UTC."""

    name: str
    severity: Severity
    since: float
    text: str


class Reply(msgspec.Struct, frozen=True):
    """`alarms` are all of the version, `features` those that were asked for or are in alarm. `rise` is of harm."""

    model: str
    version: str
    state: str
    alarms: tuple[Raised, ...]
    features: tuple[Explanation, ...]
    rise: Rise | None = None


def answered(verdicts: Mapping[Name, Verdicts], inquiry: Inquiry) -> tuple[int, bytes]:
    """HTTP status and JSON: a `Reply`, or what is wrong with the inquiry."""
    try:
        return 200, msgspec.json.encode(reply(verdicts, inquiry))
    except GaugewayError as error:
        return error.status, msgspec.json.encode({"error": str(error)})


def reply(verdicts: Mapping[Name, Verdicts], inquiry: Inquiry) -> Reply:
    """Raises UnknownModel, UnknownVersion, NotFound."""
    found = _version(verdicts, inquiry)
    features = _feature(found, inquiry) if inquiry.feature else explain_version(found.laws, found.past)
    rise = _rise(found, inquiry.feature)
    return Reply(inquiry.model, inquiry.version, found.state, tuple(_raised(found)), tuple(features), rise)


def _version(verdicts: Mapping[Name, Verdicts], inquiry: Inquiry) -> Verdicts:
    versions = [version for model, version in verdicts if model == inquiry.model]
    if not versions:
        raise UnknownModel(inquiry.model, {model for model, _ in verdicts})
    if inquiry.version not in versions:
        raise UnknownVersion(inquiry.model, inquiry.version, versions)
    return verdicts[inquiry.model, inquiry.version]


def _feature(found: Verdicts, inquiry: Inquiry) -> list[Explanation]:
    name = inquiry.feature
    if name not in found.laws:
        there = ", ".join(map(repr, sorted(found.laws))) or "none: it has no reference"
        raise NotFound(f"version {inquiry.version!r} of {inquiry.model!r} has no feature {name!r}; it has {there}")
    past = found.past[name]
    if past.empty:
        raise NotFound(f"nothing to explain: no block with a value of {name!r} was judged yet")
    return [explain(name, found.laws[name], past)]


def _rise(found: Verdicts, feature: str = "") -> Rise | None:
    losses = found.published.losses if found.published else None
    if found.harm is None or found.published is None or losses is None:
        return None
    return explain_rise(losses, found.published.features, found.harm, feature)


def _raised(found: Verdicts) -> list[Raised]:
    """The most severe first."""
    risk, checks = found.risk, found.checks
    quality, coverage, calibration = checks.quality, checks.coverage, checks.calibration
    told: list[tuple[str, Severity, float | None, str]] = [
        (RISK, risk.severity, risk.since, _harm(risk, _rise(found))),
        (QUALITY, quality.severity, quality.since, _worst(quality)),
        (COVERAGE, coverage.severity, coverage.since, _labelled(coverage)),
        (CALIBRATION, calibration.severity, calibration.since, _calibrated(calibration)),
        *((name, one.severity, one.since, _carried(name, found)) for name, one in found.drift.items()),
    ]
    alarms = [
        Raised(name, severity, at, f"{_title(name)} since the block that ended {when(at)}{text}.")
        for name, severity, at, text in told
        if at is not None
    ]
    return sorted(alarms, key=lambda alarm: (("page", "ticket", "info").index(alarm.severity), alarm.name))


def _title(name: str) -> str:
    return TITLES.get(name, f"Drift of {name}")


def _harm(risk: RiskVerdict, rise: Rise | None) -> str:
    lately = f" It rose {since(risk.onset)} and is {number(risk.lately)} since." if risk.onset and risk.lately else ""
    return (
        f": the mean loss is above {number(risk.bound)}, what the reference allows.{lately} Over all {number(risk.n)}"
        f" labels so far it is {number(risk.mean)}; of the newest judged block {percent(risk.coverage)} was labelled"
        f"{'. ' + rise.text.removesuffix('.') if rise else ''}"
    )


def _worst(quality: QualityVerdict) -> str:
    """The checks that failed, the strongest evidence first."""
    failed = [(check, name, feature) for feature, checks in quality.checks.items() for name, check in checks.items()]
    worst = sorted((one for one in failed if one[0].log_e > 0), key=lambda one: (-one[0].log_e, one[1:]))[:CARRY]
    shown = [f"{feature} {name} {percent(check.ratio)} (reference {percent(check.reference)})"
             for check, name, feature in worst]  # fmt: skip
    return f": {', '.join(shown)}" if shown else ""


def _labelled(coverage: CoverageVerdict) -> str:
    if coverage.newest is None or coverage.usual is None:
        return ""
    return f": {percent(coverage.newest)} of the newest sealed block, usually {percent(coverage.usual)}"


def _calibrated(calibration: CalibrationVerdict) -> str:
    if calibration.expected is None or calibration.realised is None:
        return ""
    return f": {number(calibration.expected)} was expected of the labels, {number(calibration.realised)} came"


def _carried(name: str, found: Verdicts) -> str:
    if name == ALL:
        return f"; the strongest evidence: {', '.join(ranked(found.past)[:CARRY])}"
    gone = name in found.past and found.past[name].empty
    return "; nothing explains it: no block with a value of it is kept" if gone else ""
