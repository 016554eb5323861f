"""The seat of judgement: the aggregator with its state in the registry's database, held by one sidecar at a time.

A step is one transaction: deliveries are taken, what all live nodes have sealed is judged, all of it is written, and
only then acknowledged. Whoever dies in between leaves the state of the step before, and the nodes send again what
was not acknowledged; a successor reads the state and goes on to the same bits.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from monitors.aggregator import Aggregator, Budget, Verdicts
from monitors.catalogue import Catalogue
from monitors.journal import Journal, State
from monitors.ledger import Identity, Name
from monitors.orders import Order
from monitors.parcel import Delivery, Marks, Receipt, Tally
from serving.config import Monitors
from serving.errors import Conflict
from serving.manifest import Manifest

STATE = ("meaning", "tally", "node", "folded", "term", "monitor", "pending_slot", "pending_label_slot")


class Judged(msgspec.Struct, frozen=True):
    """What was judged, as it was last written. `tallies` are those of all nodes, gone ones too."""

    verdicts: dict[Name, Verdicts] = {}
    tallies: dict[str, Tally] = {}
    live: tuple[str, ...] = ()
    marks: dict[str, Marks] = {}  # up to where the slots of each node are taken
    gone_rows: int = 0
    budget: Budget | None = None


class Court:
    """Goes on from `state`; `manifest_of` and `read` are the repository's, asked before a transaction begins."""

    def __init__(
        self,
        settings: Monitors,
        meaning: str,
        manifest_of: Callable[[str, str], Manifest],
        read: Callable[[Manifest, str], bytes],
    ) -> None:
        self._settings, self._meaning = settings, meaning
        self._catalogue = Catalogue(manifest_of, read, Journal(None, meaning))
        self._aggregator = Aggregator(settings)
        self._tallies: dict[str, Tally] = {}
        self._loaded: tuple[Tally, ...] = ()  # whose versions are not yet learned
        self._verdicts: dict[Name, Verdicts] = {}
        self._orders: list[Order] = []  # all: a version may be met long after it was ordered something
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
        """Learn the versions that the deliveries name. Raises Unavailable when the repository cannot be reached."""
        tallies = [*self._loaded, *(delivery.tally for delivery in deliveries)]
        for identity in sorted({identity for tally in tallies for identity in tally.versions}):
            self._learn(identity, now)
        self._loaded = ()

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
        self._aggregator.obey(self._orders)
        taken = [delivery for delivery in deliveries if delivery.meaning == self._meaning]
        for delivery in taken:
            self._aggregator.take(delivery.node, delivery.parcels, delivery.tally.open_rows)
            self._tallies[delivery.node] = delivery.tally
        self._aggregator.judge(live, now)
        self._save(taken, state)
        marks = {node: self._aggregator.marks(node) for node in self._tallies}
        aggregator = self._aggregator
        self.judged = Judged(
            dict(self._verdicts), dict(self._tallies), tuple(live), marks, aggregator.gone_rows, aggregator.budget
        )
        clocks = [clock for tally in self._tallies.values() if (clock := tally.clock) is not None]
        clock = max(clocks, default=None)
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
        return Receipt(self._aggregator.marks(delivery.node), clock)

    def _learn(self, identity: Identity, now: float) -> None:
        version = self._catalogue.find(identity, now)
        if version is not None:
            self._aggregator.know(version)
