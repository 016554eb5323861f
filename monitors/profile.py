"""The frozen profile of a version's training-time data, as it is stored beside the model."""

from hashlib import sha256

import msgspec

from monitors.cell_losses import Losses
from monitors.loss import Risk
from monitors.marginal import Marginal
from monitors.repeats import Repeats
from monitors.strata import DAY_S, is_zone, within_hours
from serving.config import Monitors
from serving.errors import ArtifactCorrupt

PREDICTION = "_prediction"  # the name under which the model's own output is a feature


class Sample(msgspec.Struct, frozen=True):
    """Reference rows drawn at random, as the cells of their features: what is known of how features go together."""

    features: tuple[str, ...]  # two at least
    cells: bytes  # uint8, shape (rows, features)

    @property
    def rows(self) -> int:
        return len(self.cells) // len(self.features)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What one version's live data are compared with; stored beside the model, named by its digest.

    `notes` are sentences for people: what is not known, and what is assumed instead.
    """

    v: int = 1
    rows: int
    block_s: float  # length of the blocks the design effects were measured on
    features: dict[str, Marginal]  # `_prediction` among them where the model has one
    risk: Risk | None = None
    notes: tuple[str, ...] = ()
    sample: Sample | None = None  # None of a single feature, and in an older profile
    repeats: Repeats | None = None  # None in an older profile
    cluster: str = ""  # of each value of this feature and block one row is counted in `features`; empty: all rows
    losses: Losses | None = None  # by cell, of all rows that have one; None in an older profile
    clock: str = ""  # the time zone that was given; empty in an older profile

    @property
    def seasonal(self) -> tuple[str, ...]:
        """Features with references by hour."""
        return tuple(name for name, law in self.features.items() if law.strata)

    @property
    def zone(self) -> str:
        """Of the clock by which hours of the week are told apart."""
        return self.clock or next((law.strata.zone for law in self.features.values() if law.strata), "UTC")

    def judged(self, settings: Monitors) -> "Profile":
        """The profile as it is judged: with one reference for all hours where `why_whole` has a reason."""
        if not self.why_whole(settings):
            return self
        return msgspec.structs.replace(self, features={name: law.whole() for name, law in self.features.items()})

    def why_whole(self, settings: Monitors) -> str:
        """Why live rows cannot be compared with the references by hour that are here; empty where they can."""
        if not self.seasonal:
            return ""
        if settings.block_s >= DAY_S:
            return "a block is at least a day"
        if not within_hours(settings.slot_s):
            return f"slots of {settings.slot_s:g} s (monitors.slot_s) reach over the ends of hours"
        if settings.unit.startswith("cluster:"):
            return f"with monitors.unit = {settings.unit!r} the row of a cluster is of no hour"
        return "" if is_zone(self.zone) else f"this machine knows no time zone {self.zone!r}"

    def correlated(self, block_s: float) -> dict[str, float]:
        """Features that are judged and whose correlation time is longer than `block_s`, and that time, in seconds."""
        fit = {name: law.memory_s for name, law in self.features.items() if not law.unfit}
        return {name: seconds for name, seconds in fit.items() if seconds > block_s}

    def encode(self) -> bytes:
        """JSON; floats in their shortest form that reads back to the same bits."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        return sha256(self.encode()).hexdigest()


def decode(data: bytes) -> Profile:
    """The inverse of `Profile.encode`. Raises ArtifactCorrupt for anything else."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as error:
        raise ArtifactCorrupt(f"not a reference profile: {error}") from None
