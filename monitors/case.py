"""One version before the judge: its monitor, the reference that holds, and what was ordered of it."""

from itertools import chain

import msgspec

from monitors.adoption import Adoption
from monitors.book import Version
from monitors.budget import Division, pagers
from monitors.learning import Learning, SavedLearning, learns
from monitors.ledger import NEVER
from monitors.monitor import Monitor
from monitors.orders import Order
from monitors.profile import Profile, decode
from monitors.rebase import Rebased, rebase
from monitors.selftest import chosen
from monitors.slot import HALF, ROWS, Counts
from serving.config import Monitors
from serving.manifest import REFERENCE_FILE


class _Saved(msgspec.Struct, array_like=True):
    """A case as it is stored."""

    digest: str
    monitor: bytes
    recent: dict[int, bytes]  # of an earlier release
    block: int
    judged: int
    judged_at: float | None
    order: int = 0
    rebased: tuple[Rebased, ...] = ()
    adoption: Adoption | None = None
    learning: SavedLearning | None = None


class Case:
    """`version` has the reference that holds; `profile` is it, counted anew where that was ordered."""

    def __init__(self, version: Version, settings: Monitors, division: Division) -> None:
        self.version, self._settings, self._division = version, settings, division
        self.adoption: Adoption | None = None
        self.learning = Learning(version.manifest, settings) if learns(version.manifest, settings) else None
        self.published = version.profile  # to which the loss is held
        self.rebased: tuple[Rebased, ...] = ()  # the newest last
        self._begin()
        self.block = 0
        self.judged = 0
        self.judged_at: float | None = None
        self.order = 0

    @property
    def reference(self) -> int:
        """The order that brought the reference; 0: it came with the publication."""
        return self.adoption.order if self.adoption else 0

    @property
    def holding(self) -> Adoption:
        """What a node has to hear that counts with another reference."""
        manifest = self.version.manifest
        published = manifest.files.get(REFERENCE_FILE, "")
        return self.adoption or Adoption(manifest.model, manifest.version, manifest.digest, 0, published, since=NEVER)

    def takes(self, slot: int, counts: Counts) -> bool:
        """Whether a node counted a slot with the reference that holds.

        Where the registry was restored from a copy, the number of an order may come again with another profile, so
        the cells have to be those of this one.
        """
        since = self.adoption.since if self.adoption else slot
        return counts.reference == self.reference and slot >= since and _fit(counts, self.version.profile)

    @property
    def recounted(self) -> Rebased | None:
        """The newest rebase on live rows, if these lie in the cells of the reference that holds."""
        newest = self.rebased[-1] if self.rebased else None
        return newest if newest and newest.reference == self.reference else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What came after the publication."""
        adopted = (f"the reference are {self.adoption.rows} (order {self.adoption.order})",) if self.adoption else ()
        why = self.version.profile.why_whole(self._settings) if self.version.profile else ""
        whole = (f"all hours are compared together, although the profile has references by hour: {why}",) if why else ()
        learning = (self.learning.progress,) if self.learning else ()
        return (*learning, *adopted, *whole, *(self.recounted.notes if self.recounted else ()))

    def obey(self, order: Order) -> None:
        """Once each, in their order; before the next block is judged. A reference that it brings is adopted before."""
        if order.kind == "rebase" and not order.reference and self.profile is not None:
            laws, past, block_s = self.profile.features, self.monitor.past(), self._settings.block_s
            found = rebase(order.number, laws, past, self.recounted, block_s)
            self.rebased = (*self.rebased, msgspec.structs.replace(found, reference=self.reference))
            state = self.monitor.encode()
            self._begin()
            self.monitor.restore(state)
        self.monitor.reset(harm=order.kind == "reset")
        self.order = order.number

    def adopt(self, adoption: Adoption, profile: Profile) -> None:
        """Begin anew with another reference; harm goes on."""
        state = self.monitor.encode()
        self._take_up(adoption, profile)
        self._begin()
        self.monitor.succeed(state)
        self.judged = self.monitor.blocks

    def fold(self, slot: int, counts: Counts) -> None:
        """Take the counts of a sealed slot: they are judged, or the reference is learned from them."""
        if self.learning:
            self.learning.fold(slot, counts)
        elif self.profile:
            self.monitor.fold(slot, counts)

    def advance(self, slot: int) -> None:
        """All slots before `slot` are sealed."""
        if self.learning:
            self.learning.advance(slot)
        self.monitor.advance(slot)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(
            _Saved(
                digest=self.version.manifest.digest, monitor=self.monitor.encode(), recent={}, block=self.block,
                judged=self.judged, judged_at=self.judged_at, order=self.order, rebased=self.rebased,
                adoption=self.adoption, learning=self.learning.save() if self.learning else None,
            )
        )  # fmt: skip

    def restore(self, data: bytes, adopted: bytes, learned: bytes) -> None:
        """Go on from what was encoded; `adopted` is the profile that was adopted, `learned` the rows that a reference
        is to be made of: each empty where there is none.
        """
        saved = msgspec.msgpack.decode(data, type=_Saved)
        if saved.digest == self.version.manifest.digest:
            self.rebased = saved.rebased
            if saved.adoption:
                self._take_up(saved.adoption, decode(adopted))
            elif self.learning and saved.learning:
                self.learning.load(saved.learning, learned)
            self._begin()
            self.monitor.restore(saved.monitor)
            self.block, self.judged, self.judged_at = saved.block, saved.judged, saved.judged_at
            self.order = saved.order

    def _take_up(self, adoption: Adoption, profile: Profile) -> None:
        self.learning = None
        self.adoption, self.version = adoption, msgspec.structs.replace(self.version, profile=profile, broken="")

    def _begin(self) -> None:
        """A new monitor, with the reference that holds."""
        profile, recounted = self.version.profile, self.recounted
        profile = recounted.applied(profile) if profile and recounted else profile
        self.profile = profile.judged(self._settings) if profile else None
        self.pagers = pagers(self.profile, self._settings, self.version.takes_labels)
        self.monitor = Monitor(self.profile, self._settings, self._division.at)


def _fit(counts: Counts, profile: Profile | None) -> bool:
    """Whether cells and samples may be added to those that are counted with a profile."""
    laws, drawn = (profile.features, profile.sample) if profile else ({}, None)
    sizes = {name: law.size for name, law in laws.items()} | {ROWS: 1}
    sizes[HALF] = sizes.get(chosen(profile) or "", 0)
    cells = chain.from_iterable(part.items() for part in (counts.cells, *counts.hours.values()))
    named = len(drawn.features) if drawn else 0
    return (
        all(len(found) == sizes.get(name) for name, found in cells)
        and (counts.sample is None or counts.sample.cells.shape[1] == named)
        and (counts.clusters is None or counts.clusters.cells.shape[1] == len(laws))
    )
