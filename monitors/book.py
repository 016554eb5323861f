"""Running totals of one version: everything that is counted once and never judged, and the delays of its labels."""

import math
from bisect import bisect_left
from typing import Literal

import msgspec
import numpy as np

from monitors.labels import Match, Truth
from monitors.loss import losses
from monitors.reference import Profile
from monitors.slot import LOSS_UNIT
from serving.manifest import Manifest

DELAYS_S: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(49))  # bounds of the delay histogram, 1 s to 194 days


_SUMS = (
    "rows", "failed", "late", "misdated", "expected", "sampled_out", "reused", "joined", "corrected", "loss", "due",
    "due_labelled", "delay_s",
)  # fmt: skip


class Version(msgspec.Struct, frozen=True):
    """What is known of a version: its manifest, and the profile of its training data where it has one."""

    manifest: Manifest
    profile: Profile | None = None
    broken: str = ""  # why the profile cannot be read

    @property
    def takes_labels(self) -> bool:
        """Whether a label makes a loss: regression needs the cap that the profile holds."""
        manifest = self.manifest
        scaled = manifest.task == "classification" or (self.profile is not None and self.profile.risk is not None)
        return manifest.prediction is not None and manifest.task is not None and scaled

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say what is not monitored, and why."""
        manifest = self.manifest
        lacks = {
            f"drift is not monitored: {self.broken or 'the version has no reference profile'}": self.profile is None,
            "features are not monitored: the version declares none": not manifest.features,
            "predictions are not monitored: the version does not say which output is the prediction": (
                manifest.prediction is None
            ),
            "labels are not monitored: the version declares no task": manifest.task is None,
            "labels are not monitored: the scale of a regression's loss needs a reference with labels": (
                manifest.task is not None and manifest.prediction is not None and not self.takes_labels
            ),
        }
        return tuple(note for note, holds in lacks.items() if holds)


class Book(msgspec.Struct):
    """Rows and labels of one version since it was first seen. `loss` is in units of 2**-32."""

    digest: str
    task: Literal["classification", "regression"] | None = None
    cap: float = 1.0
    rows: int = 0
    failed: int = 0  # rows of requests that got an error
    late: int = 0  # rows that came after their slot was sealed
    misdated: int = 0  # rows whose event time is no time, or lies in the future
    expected: int = 0  # predictions that wait or waited for a label
    sampled_out: int = 0  # predictions that do not, since the store is too full
    reused: int = 0  # predictions under an id that was used before
    joined: int = 0
    corrected: int = 0  # truths that a later one replaced
    loss: int = 0
    due: int = 0  # predictions in sealed label slots, and how many of them had a label then
    due_labelled: int = 0
    last_time: float = 0.0  # largest event time
    seen: float = 0.0  # wall clock when rows were last read
    delay_s: float = 0.0
    delays: list[int] = msgspec.field(default_factory=lambda: [0] * (len(DELAYS_S) + 1))

    @classmethod
    def of(cls, version: Version) -> "Book":
        risk = version.profile.risk if version.profile else None
        task = version.manifest.task if version.takes_labels else None
        return cls(version.manifest.digest, task, risk.cap if risk else 1.0)

    def copy(self) -> "Book":
        return msgspec.structs.replace(self, delays=[*self.delays])

    def add(self, other: "Book") -> None:
        """Add what another node counted of the version."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_time, self.seen = max(self.last_time, other.last_time), max(self.seen, other.seen)
        self.delays = [a + b for a, b in zip(self.delays, other.delays, strict=True)]

    @property
    def mean_loss(self) -> float | None:
        """Of all labels so far, 0..1; None before the first."""
        return self.loss * LOSS_UNIT / self.joined if self.joined else None

    @property
    def coverage(self) -> float | None:
        """Share of the predictions past the horizon that had a label by then; None before there are any."""
        return self.due_labelled / self.due if self.due else None

    def refusal(self, label: float) -> str | None:
        """Why a label cannot be judged, else None."""
        if self.task == "classification" and label not in (0, 1):
            return f"label of a classification must be 0 or 1, got {label:g}"
        return None

    def follow(self, matches: list[Match]) -> list[tuple[int, int]]:
        """Count what changed; by match the change of labelled rows and of the loss."""
        values = [match.prediction.value for match in matches]
        before = self._units(values, [match.before for match in matches])
        after = self._units(values, [match.after for match in matches])
        for match in matches:
            self._delayed(match, match.before, -1)
            self._delayed(match, match.after, +1)
            self.corrected += match.before is not None and match.after is not None
        changes = [
            ((match.after is not None) - (match.before is not None), new - old)
            for match, old, new in zip(matches, before, after, strict=True)
        ]
        self.joined += sum(labelled for labelled, _ in changes)
        self.loss += sum(loss for _, loss in changes)
        return changes

    def delay_quantile_s(self, q: float) -> float | None:
        """Geometric middle of the bucket that holds the quantile; None without labels.

        >>> book = Book("d", delays=[0] * 8 + [10] + [0] * 41)
        >>> round(book.delay_quantile_s(0.5), 1), DELAYS_S[7:9]
        (13.5, (11.313708498984761, 16.0))
        """
        total = np.cumsum(self.delays)
        if not total[-1]:
            return None
        bucket = min(int(np.searchsorted(total, q * total[-1])), len(DELAYS_S) - 1)
        return DELAYS_S[bucket] * (math.sqrt(math.sqrt(0.5)) if bucket else 1.0)

    def _units(self, values: list[float], truths: list[Truth | None]) -> list[int]:
        """Losses in units of 2**-32; 0 where there is no label."""
        labels = [truth.label if truth else value for value, truth in zip(values, truths, strict=True)]
        loss = losses(self.task or "classification", self.cap, np.array(values), np.array(labels))
        return [int(unit) for unit in np.rint(loss / LOSS_UNIT)]

    def _delayed(self, match: Match, truth: Truth | None, sign: int) -> None:
        if truth is not None:
            delay_s = max(truth.time - match.prediction.time, 0.0)
            self.delays[bisect_left(DELAYS_S, delay_s)] += sign
            self.delay_s += sign * delay_s
