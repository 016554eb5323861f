"""What the demo shows while it replays: a table for a terminal, a line for a log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from rich.table import Table
from rich.text import Text

from serving.demo.replay import Progress
from serving.demo.verdicts import Verdicts, Version

RECENT = 5000  # answers behind the live latency
FEATURES_SHOWN = 4


@dataclass
class Board:
    """What is known at one moment about `model`. `weights` are the shares asked for.

    `first_alarm` remembers alarms that clear again: by version and feature (`_risk` for harm), the end of the block
    that raised the first one, seconds since 1970 UTC.
    """

    model: str
    progress: Progress
    weights: Mapping[str, float]
    verdicts: Verdicts = field(default_factory=Verdicts)
    rate: float = 0.0  # answers a second since the look before
    first_alarm: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: tuple[float, int] = (0.0, 0)

    def look(self, verdicts: Verdicts | None, now: float) -> None:
        """Take newer verdicts, if there are any; `now` is a monotonic clock in seconds."""
        self.verdicts = verdicts or self.verdicts
        then, answered = self._last
        if then and now > then:
            self.rate = (self.progress.answered - answered) / (now - then)
        self._last = now, self.progress.answered
        for version, found in self.by_version.items():
            alarms = {name: drift.since for name, drift in found.drift.items()} | {"_risk": found.risk.since}
            for name, since in alarms.items():
                if since is not None:
                    self.first_alarm.setdefault((version, name), since)

    @property
    def by_version(self) -> dict[str, Version]:
        return self.verdicts.of(self.model)

    @property
    def caught_up(self) -> bool:
        """Whether the monitors have seen every answer, joined every label, and judged what they have seen."""
        seen = self.by_version.values()
        labels = self.progress.labels.sent - self.progress.labels.refused
        return (
            sum(version.rows for version in seen) >= self.progress.answered
            and sum(version.labels.joined for version in seen) >= labels
            and self.verdicts.settled
        )

    def latency_s(self) -> tuple[float, float]:
        """Median and 99th percentile of the newest answers; 0 before there are any."""
        done = self.progress.answered + self.progress.failed
        recent = self.progress.latency_s[max(0, done - RECENT) : done + 1]
        recent = recent[np.isfinite(recent)]
        return (float(np.quantile(recent, 0.5)), float(np.quantile(recent, 0.99))) if recent.size else (0.0, 0.0)

    def key_share(self, version: str) -> float:
        """Share of the distinct sticky keys, 0..1."""
        keys = {name: len(share.keys) for name, share in self.progress.shares.items()}
        return keys.get(version, 0) / max(1, sum(keys.values()))


def table(board: Board) -> Table:
    """A row per version."""
    shown = Table(title=heading(board), title_justify="left", title_style="", expand=False)
    for name in ("version", "requests", "keys", "Brier (bound)", "harm: log e", "labels", "drifting features (PSI)"):
        shown.add_column(name, justify="left" if name.startswith(("version", "drift")) else "right")
    for version, weight in board.weights.items():
        shown.add_row(*_row(board, version, weight))
    return shown


def heading(board: Board) -> str:
    """One line: how far, how fast, how well."""
    progress, (p50, p99) = board.progress, board.latency_s()
    return (
        f"{clock(progress.clock)}  {progress.answered:,} of {progress.total:,} requests, {board.rate:,.0f}/s,"
        f" p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, {progress.failed} failed,"
        f" {progress.labels.sent:,} labels sent"
        + (f", {progress.labels.failed:,} labels failed" if progress.labels.failed else "")
    )


def line(board: Board) -> str:
    """The heading and a clause per version, for a log."""
    return "; ".join([heading(board), *(_clause(board, version) for version in board.weights)])


WHOLE = ("_all", "_joint")  # no features


def drifting(version: Version | None) -> list[str]:
    """Features in alarm, strongest effect first: ``temp 2.31``."""
    if version is None:
        return []
    found = [(drift.psi, name) for name, drift in version.drift.items() if drift.alarm and name not in WHOLE]
    return [f"{name} {psi:.2f}" for psi, name in sorted(found, reverse=True)]


def clock(seconds: float | None) -> str:
    """Event time to the minute.

    >>> clock(1364774400.0)
    '2013-04-01 00:00'
    """
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _row(board: Board, version: str, weight: float) -> list[str | Text]:
    found, share = board.by_version.get(version), board.progress.shares.get(version)
    counted = [version, f"{share.requests:,}" if share else "0", f"{board.key_share(version):.3f} (asked {weight:g})"]
    if found is None:
        return [*counted, "-", "-", "-", "-"]
    risk, labels, names = found.risk, found.labels, drifting(found)
    evidence = f"{risk.log_e:.1f} of {risk.threshold:.1f}"
    return [
        *counted,
        "-" if risk.mean is None else f"{risk.mean:.4f} ({risk.bound:.4f})",
        Text(f"{evidence} ALARM", style="bold red") if risk.alarm else evidence,
        f"{labels.joined:,} ({_ratio(labels.coverage_ratio)})",
        _first(names),
    ]


def _clause(board: Board, version: str) -> str:
    found = board.by_version.get(version)
    if found is None:
        return f"version {version}: no verdict yet"
    mean = "-" if found.risk.mean is None else f"{found.risk.mean:.4f}"
    harm = "HARM" if found.risk.alarm else "no harm"
    return (
        f"version {version}: {board.key_share(version):.3f} of keys, Brier {mean}, {harm},"
        f" labels {_ratio(found.labels.coverage_ratio)}, drifting: {_first(drifting(found))}"
    )


def _first(names: list[str]) -> str:
    more = len(names) - FEATURES_SHOWN
    return ", ".join(names[:FEATURES_SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "none"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
