"""All features of a version together: whether rows as a whole left the reference though no feature did. Explains."""

import msgspec
import numpy as np

from monitors.alarm import Alarm
from monitors.bottom_k import BottomK
from monitors.drift.classifier import CLIPS, Classifier
from monitors.drift.e_detector import accumulated, log_mean_exp
from monitors.drift.tempering import thinned
from monitors.drift.watch import DriftVerdict
from monitors.profile import Profile
from serving.config import Monitors

JOINT = "_joint"  # the detector's name among those of features


class SavedJoint(msgspec.Struct, array_like=True):
    """As it is stored, exactly. `moments` are those on and above the diagonal."""

    moments: list[float]
    noise: float
    taken: int  # blocks the classifier has learned from
    s: list[float]
    alarm: Alarm
    log_e: float = 0.0
    blocks: int = 0


class JointWatch:
    """Of a version whose reference has at least two features; without a sample of its rows it judges nothing."""

    def __init__(self, profile: Profile, settings: Monitors) -> None:
        self._classifier, self.note = _classifier(profile, settings)
        self._state = SavedJoint([], 0.0, 0, [0.0] * len(CLIPS), Alarm())
        self._tolerance, self._rows = settings.tolerance, profile.sample.rows if profile.sample else 0

    def judge(
        self, sample: BottomK | None, rows: int, design_effect: float, at: float, threshold: float, quiet_blocks: int
    ) -> None:
        """Take the sample of a block of so many rows that ended at `at`; `design_effect` is that of all its rows."""
        if self._classifier is None or sample is None:
            return
        won = self._classifier.update(sample.cells, thinned(design_effect, len(sample), rows))
        s, state = accumulated(np.array(self._state.s), won), self._state
        state.log_e, state.blocks = float(log_mean_exp(s)), state.blocks + 1
        crossed = state.log_e >= threshold
        state.s = [0.0] * len(CLIPS) if crossed else s.tolist()
        state.alarm.update(crossed, at, quiet_blocks, state.log_e)

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it."""
        self._state.s = [s - nats for s in self._state.s]

    def verdict(self, threshold: float) -> DriftVerdict:
        """Without effect sizes, so n is 0."""
        state = self._state
        return DriftVerdict(
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            since=state.alarm.since,
            blocks=state.blocks,
            note=self.note,
        )

    @property
    def assumption(self) -> str:
        return (
            f"without drift at most {self._tolerance:g} of the rows, whatever came before them, leave the combinations"
            f" of cells that the reference has, beyond what a sample of {self._rows} of its rows may be wrong by"
        )

    def save(self) -> SavedJoint:
        if self._classifier is None:
            return self._state
        moments = self._classifier.moments
        return msgspec.structs.replace(
            self._state,
            moments=moments[np.triu_indices_from(moments)].tolist(),
            noise=self._classifier.noise,
            taken=self._classifier.blocks,
        )

    def load(self, saved: SavedJoint) -> None:
        """What does not fit is left aside."""
        if self._classifier is None:
            return
        moments = np.empty_like(self._classifier.moments)
        upper = np.triu_indices_from(moments)
        if len(saved.moments) == len(upper[0]) and len(saved.s) == len(CLIPS):
            moments[upper] = moments.T[upper] = saved.moments
            self._classifier.learned(moments, saved.noise, saved.taken)
            self._state = saved


def _classifier(profile: Profile, settings: Monitors) -> tuple[Classifier | None, str]:
    """Or the sentence why there is none."""
    sample = profile.sample
    if sample is None:
        return None, "the profile has no sample of rows: an older release made it, or it was made from counts"
    if settings.unit.startswith("cluster:"):
        return (
            None,
            f"with monitors.unit = {settings.unit!r} it is not judged: a sample of rows says nothing of clusters",
        )
    laws = [profile.features[name] for name in sample.features]
    if any(law.strata for law in laws):
        return None, "features are compared by hour, and how they go together is known of all hours at once only"
    cells = np.frombuffer(sample.cells, np.uint8).reshape(-1, len(laws))
    design_effect = thinned(max(law.design_effect for law in laws), sample.rows, profile.rows)
    classifier = Classifier(laws, cells, settings.tolerance, design_effect, settings.unit)
    if classifier.fit:
        return classifier, ""
    return None, f"reference too small: a sample of {sample.rows} rows, worth {sample.rows / design_effect:.0f}"
