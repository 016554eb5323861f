"""The seat of judgement: the aggregator with its state in the registry's database, held by one sidecar at a time.

A step is one transaction: deliveries are taken, what all live nodes have sealed is judged, all of it is written, and
only then acknowledged. Whoever dies in between leaves the state of the step before, and the nodes send again what
was not acknowledged; a successor reads the state and goes on to the same bits.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from monitors.aggregator import Aggregator, Budget, Verdicts
from monitors.catalogue import Catalogue
from monitors.journal import Journal, State
from monitors.ledger import Identity, Name
from monitors.orders import Order
from monitors.parcel import Delivery, Marks, Receipt, Tally
from monitors.profile import Profile, decode
from serving.config import Monitors
from serving.errors import ArtifactCorrupt, Conflict, PublishRefused, Unavailable
from serving.manifest import Manifest

RETRY_S = 30.0  # before a profile is read or stored again after that failed

log = logging.getLogger("gaugeway.monitors")

STATE = (
    "meaning", "tally", "node", "folded", "term", "monitor", "reference", "learned", "pending_slot",
    "pending_label_slot",
)  # fmt: skip


class Judged(msgspec.Struct, frozen=True):
    """What was judged, as it was last written. `tallies` are those of all nodes, gone ones too."""

    verdicts: dict[Name, Verdicts] = {}
    tallies: dict[str, Tally] = {}
    live: tuple[str, ...] = ()
    marks: dict[str, Marks] = {}  # up to where the slots of each node are taken
    gone_rows: int = 0
    budget: Budget | None = None
    superseded_rows: int = 0


class Court:
    """Goes on from `state`; `manifest_of`, `read`, `store` are the repository's, asked before a transaction begins."""

    def __init__(
        self,
        settings: Monitors,
        meaning: str,
        manifest_of: Callable[[str, str], Manifest],
        read: Callable[[Manifest, str], bytes],
        store: Callable[[bytes], str],
    ) -> None:
        self._settings, self._meaning, self._store = settings, meaning, store
        self._catalogue = Catalogue(manifest_of, read, Journal(None, meaning))
        self._aggregator = Aggregator(settings)
        self._tallies: dict[str, Tally] = {}
        self._loaded: tuple[Tally, ...] = ()  # whose versions are not yet learned
        self._verdicts: dict[Name, Verdicts] = {}
        self._orders: list[Order] = []  # all: a version may be met long after it was ordered something
        self._informed = False  # of the orders that were written before
        self._references: dict[str, Profile] = {}  # that orders bring which are still to be carried out, by digest
        self._failed_at: dict[str | Name, float] = {}  # of references, and of versions that learned one
        self.given: tuple[Order, ...] = ()  # by this judge, to be numbered and written before the next step
        self.judged = Judged()

    def load(self, state: State) -> bool:
        """Take up what was written last; False when it was written with other slots, and is begun anew."""
        written = state.all("meaning").get(())
        if written is not None and written != self._meaning.encode():
            for kind in STATE:
                state.remove(kind, state.all(kind))
            written = None
        if written is None:
            state.put("meaning", {(): self._meaning.encode()})
        self._aggregator.load(state)
        tallies = state.all("tally").items()
        self._tallies = {str(node): msgspec.msgpack.decode(data, type=Tally) for (node,), data in tallies}
        self._loaded = tuple(self._tallies.values())
        return written is not None

    def prepare(self, deliveries: Iterable[Delivery], now: float) -> None:
        """Learn the versions that the deliveries name, and what orders bring.

        Raises Unavailable when a version cannot be read.
        """
        tallies = [*self._loaded, *(delivery.tally for delivery in deliveries)]
        for identity in sorted({identity for tally in tallies for identity in tally.versions}):
            self._learn(identity, now)
        self._loaded = ()
        self._fetch(now)
        self.given = tuple(self._concluded(now)) if self._informed else ()

    @property
    def ordered(self) -> int:
        """The number of the newest order that this one knows."""
        return self._orders[-1].number if self._orders else 0

    def step(
        self, deliveries: Sequence[Delivery], live: Collection[str], now: float, state: State,
        orders: Sequence[Order] = (),
    ) -> list[Receipt | Conflict]:  # fmt: skip
        """Obey, take, judge, write; `prepare` was called with the same deliveries. Answers hold once it is committed.

        `orders` are those behind `ordered`. Each falls between two judged blocks of its version.
        """
        self._orders += orders
        self._informed = True
        told = [*self._tallies.values(), *(delivery.tally for delivery in deliveries)]
        self._aggregator.obey(self._orders, self._references, _clock(told))
        taken = [delivery for delivery in deliveries if delivery.meaning == self._meaning]
        for delivery in taken:
            self._aggregator.take(delivery.node, delivery.parcels, delivery.tally.open_rows)
            self._tallies[delivery.node] = delivery.tally
        self._aggregator.judge(live, now)
        self._save(taken, state)
        marks = {node: self._aggregator.marks(node) for node in self._tallies}
        aggregator = self._aggregator
        self.judged = Judged(
            dict(self._verdicts), dict(self._tallies), tuple(live), marks, aggregator.gone_rows, aggregator.budget,
            aggregator.superseded_rows,
        )  # fmt: skip
        clock = _clock(self._tallies.values())
        return [self._answer(delivery, clock) for delivery in deliveries]

    def _save(self, taken: Sequence[Delivery], state: State) -> None:
        """A tally that came without a parcel can wait: it will be told again."""
        sent = {delivery.node for delivery in taken if delivery.parcels}
        state.put("tally", {(node,): msgspec.msgpack.encode(self._tallies[node]) for node in sent})
        for name in self._aggregator.save(state):
            self._verdicts[name] = self._aggregator.verdicts(name)

    def _answer(self, delivery: Delivery, clock: float | None) -> Receipt | Conflict:
        if delivery.meaning != self._meaning:
            return Conflict(f"node {delivery.node!r} counts {delivery.meaning}, the cluster {self._meaning}")
        return Receipt(self._aggregator.marks(delivery.node), clock, self._aggregator.adoptions)

    def _learn(self, identity: Identity, now: float) -> None:
        version = self._catalogue.find(identity, now)
        if version is not None:
            self._aggregator.know(version)

    def _fetch(self, now: float) -> None:
        """References that orders bring. One that cannot be read is tried again later, and its order waits."""
        wanted = self._aggregator.wanted(self._orders)
        self._references = {digest: known for digest, known in self._references.items() if digest in wanted}
        for digest, name in wanted.items():
            if digest in self._references or self._rests(digest, now):
                continue
            try:
                self._references[digest] = decode(self._catalogue.fetch(name, digest))
            except (Unavailable, ArtifactCorrupt) as error:
                self._failed_at[digest] = now
                log.warning("an order for %s version %s waits: %s", *name, error)

    def _rests(self, what: str | Name, now: float) -> bool:
        """Whether it failed a moment ago."""
        failed_at = self._failed_at.get(what)
        return failed_at is not None and 0 <= now - failed_at < RETRY_S

    def _concluded(self, now: float) -> Iterator[Order]:
        """What was learned becomes a reference, by an order of this judge's own."""
        why = f"monitors.learn_blocks is {self._settings.learn_blocks}"
        ordered = self._aggregator.wanted(self._orders).values()
        for name, learning in self._aggregator.learned.items():
            if name in ordered or self._rests(name, now):
                continue
            try:
                data = learning.profile.encode()
                digest = self._store(data)
            except (Unavailable, PublishRefused) as error:
                self._failed_at[name] = now
                log.warning("what was learned of %s version %s is no reference yet: %s", *name, error)
                continue
            self._references[digest] = decode(data)  # as whoever reads it has it
            yield Order(0, "learn", *name, 0.0, "the monitors", why, digest, learning.said)


def _clock(tallies: Iterable[Tally]) -> float | None:
    """The largest event time; None before the first record."""
    return max((clock for tally in tallies if (clock := tally.clock) is not None), default=None)
