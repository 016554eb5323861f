"""What the demo found, as numbers for a file and as sentences for a reader."""

from collections.abc import Mapping

import msgspec
import numpy as np

from serving.demo.replay import Progress
from serving.demo.table import Board, clock
from serving.demo.traffic import Traffic
from serving.demo.verdicts import Drift, Risk, Version
from serving.protocol import Array

Z95 = 1.959964


class ByVersion(msgspec.Struct, frozen=True):
    """`share` is of the distinct sticky keys, which is what a split assigns; 0..1."""

    requests: int
    keys: int
    share: float
    label_coverage_ratio: float | None


class Latency(msgspec.Struct, frozen=True):
    """Seconds, as the client saw them over the whole replay."""

    p50: float
    p99: float


class DriftFound(msgspec.Struct, frozen=True):
    """At the end; `first_alarm` in seconds since 1970 UTC, also of an alarm that has cleared since."""

    log_e: float
    threshold: float
    psi: float
    ks: float
    alarm: bool
    first_alarm: float | None


class RiskFound(msgspec.Struct, frozen=True):
    """`mean` Brier score over all `n` joined labels."""

    mean: float | None
    n: int
    log_e: float
    threshold: float
    bound: float
    alarm: bool
    first_alarm: float | None


class Comparison(msgspec.Struct, frozen=True):
    """Mean loss of `first` minus that of `second`, with its 95 % interval: above 0, the second is better."""

    first: str
    second: str
    difference: float
    low: float
    high: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``--summary``. `labels_sent` were acknowledged by the gateway."""

    requests: int
    failed: int
    failures: list[str]
    elapsed_s: float
    by_version: dict[str, ByVersion]
    labels_sent: int
    labels_failed: int
    labels_joined: int
    label_coverage_ratio: float
    lost_rows: int
    latency_s: Latency
    drift: dict[str, dict[str, DriftFound]]
    risk: dict[str, RiskFound]
    comparison: Comparison | None

    @property
    def sound(self) -> bool:
        """Nothing failed and every label found its prediction."""
        return not (self.failed or self.labels_failed) and self.labels_joined == self.labels_sent


def summarise(traffic: Traffic, board: Board) -> Summary:
    progress, versions = board.progress, board.by_version
    joined = sum(version.labels.joined for version in versions.values())
    latency_s = progress.latency_s[np.isfinite(progress.latency_s)]
    p50, p99 = np.quantile(latency_s, (0.5, 0.99)) if latency_s.size else (0.0, 0.0)
    return Summary(
        requests=progress.answered + progress.failed,
        failed=progress.failed,
        failures=progress.failures,
        elapsed_s=progress.elapsed_s,
        by_version={name: _share(board, name) for name in sorted(progress.shares)},
        labels_sent=progress.labels.sent,
        labels_failed=progress.labels.failed + progress.labels.refused,
        labels_joined=joined,
        label_coverage_ratio=joined / max(1, progress.answered),
        lost_rows=board.verdicts.lost_rows,
        latency_s=Latency(float(p50), float(p99)),
        drift={name: _drifts(board, name, version) for name, version in versions.items()},
        risk={name: _risk(version.risk, board.first_alarm.get((name, "_risk"))) for name, version in versions.items()},
        comparison=compare(traffic, progress),
    )


def compare(traffic: Traffic, progress: Progress) -> Comparison | None:
    """The two versions by Brier score, from the client's own record of answers; None unless two were labelled.

    Keys were assigned, so a key is the unit: the variance of a ratio of sums over keys, sum (L_k - m n_k)^2 /
    (sum n_k)^2 with L_k the loss and n_k the rows of key k (Deng, Knoblich & Lu, KDD 2018).
    """
    losses = (progress.predictions - traffic.labels) ** 2
    served, keys = np.array(progress.versions), np.array(traffic.keys)
    known = np.isfinite(losses)
    names = sorted(set(served[known].tolist()))
    if len(names) != 2:
        return None
    parts = [known & (served == name) for name in names]
    (mean, variance), (other, other_variance) = (_mean(losses[part], keys[part]) for part in parts)
    half = Z95 * float(np.sqrt(variance + other_variance))
    return Comparison(names[0], names[1], mean - other, mean - other - half, mean - other + half)


def sentences(summary: Summary, weights: Mapping[str, float]) -> list[str]:
    """The end of the demo in words: how it went, what drifted, what harmed, which version is better."""
    return [
        _replayed(summary),
        *(_served(name, share, weights.get(name, 0.0)) for name, share in summary.by_version.items()),
        f"Labels: {summary.labels_joined:,} joined of {summary.labels_sent:,} sent; cancelled flights never get one.",
        *(_drifted(name, found) for name, found in sorted(summary.drift.items())),
        *(_harmed(name, found) for name, found in sorted(summary.risk.items())),
        _better(summary.comparison),
        *(f"Failed: {failure}" for failure in summary.failures),
    ]


def _replayed(summary: Summary) -> str:
    rate = summary.requests / max(1e-9, summary.elapsed_s)
    p50, p99 = summary.latency_s.p50 * 1e3, summary.latency_s.p99 * 1e3
    return (
        f"Replayed {summary.requests:,} flights in {summary.elapsed_s:.1f} s: {rate:,.0f} requests/s,"
        f" p50 {p50:.1f} ms, p99 {p99:.1f} ms, {summary.failed} failed."
    )


def _served(name: str, share: ByVersion, weight: float) -> str:
    return (
        f"Version {name} answered {share.requests:,} requests of {share.keys:,} flight numbers:"
        f" a share of {share.share:.3f}, asked for {weight:g}."
    )


def _drifted(name: str, found: Mapping[str, DriftFound]) -> str:
    strongest = sorted(found.items(), key=lambda item: -item[1].psi)
    parts = [
        f"{feature} ({_alarmed(drift.alarm, drift.first_alarm)}, PSI {drift.psi:.2f})"
        for feature, drift in strongest
        if drift.first_alarm is not None and not feature.startswith("_")
    ]
    return f"Drift, version {name}: {', '.join(parts) or 'none'}."


def _harmed(name: str, risk: RiskFound) -> str:
    if risk.mean is None:
        return f"Harm, version {name}: not known, no label was joined."
    above = "not shown, though the score is above what is allowed" if risk.mean > risk.bound else "no"
    harm = above if risk.first_alarm is None else f"YES, {_alarmed(risk.alarm, risk.first_alarm)}"
    score = f"Brier score {risk.mean:.4f} over {risk.n:,} labels, allowed {risk.bound:.4f}"
    return f"Harm, version {name}: {harm}; {score}."


def _better(comparison: Comparison | None) -> str:
    if comparison is None:
        return "Which version is better: not known, since not both have labels."
    better, worse, gain = comparison.second, comparison.first, comparison.difference
    low, high = comparison.low, comparison.high
    if gain < 0:
        better, worse, gain, low, high = worse, better, -gain, -high, -low
    doubt = "" if low > 0 else ", which holds 0: not yet shown"
    return (
        f"Better: version {better}, whose Brier score is lower than that of version {worse} by {gain:.4f}"
        f" (95 % interval {low:.4f} to {high:.4f}{doubt})."
    )


def _alarmed(now: bool, since: float | None) -> str:
    return f"since {clock(since)[:10]}" if now else f"from {clock(since)[:10]}, over by now"


def _mean(losses: Array, keys: Array) -> tuple[float, float]:
    """Mean of the rows, and its variance with keys as units."""
    _, key = np.unique(keys, return_inverse=True)
    rows, total = np.bincount(key), np.bincount(key, losses)
    mean = float(total.sum() / rows.sum())
    return mean, float(np.sum((total - mean * rows) ** 2) / rows.sum() ** 2)


def _share(board: Board, name: str) -> ByVersion:
    share, found = board.progress.shares[name], board.by_version.get(name)
    coverage = found.labels.coverage_ratio if found else None
    return ByVersion(share.requests, len(share.keys), board.key_share(name), coverage)


def _drifts(board: Board, version: str, found: Version) -> dict[str, DriftFound]:
    return {name: _drift(drift, board.first_alarm.get((version, name))) for name, drift in found.drift.items()}


def _drift(found: Drift, first_alarm: float | None) -> DriftFound:
    return DriftFound(found.log_e, found.threshold, found.psi, found.ks, found.alarm, first_alarm)


def _risk(risk: Risk, first_alarm: float | None) -> RiskFound:
    return RiskFound(risk.mean, risk.n, risk.log_e, risk.threshold, risk.bound, risk.alarm, first_alarm)
