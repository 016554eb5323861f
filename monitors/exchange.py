"""Labels find the node that made their prediction: each node is asked, and the label goes to the latest prediction.

Predictions stay on the node that made them. A label that no node knows is parked where it arrived, and the others
are asked again, a page of parked labels at a time, until one knows it or the horizon has passed. Whatever is sent
twice is joined once, since the outcome of a join does not depend on how often or in which order it is told.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from monitors.labels import FIRST, Label
from monitors.questions import Answer, Holding, Labelling, Leaving, Questions, Straying, ask
from serving.errors import NotReady, Unavailable

HELD, JOIN = "/labels/held", "/labels/join"
STRAY_S = 1.0  # between two pages
STRAYS = 500  # parked labels of a page

log = logging.getLogger("gaugeway.monitors")
Send = Callable[[str, str, bytes], bytes]  # address, path, body -> answer; raises Unavailable
Numbered = list[tuple[int, Label]]


class Exchange:
    """`peers` are the addresses of the other nodes, by name; `node` is this one."""

    def __init__(self, node: str, questions: Questions, peers: Callable[[], Mapping[str, str]], send: Send) -> None:
        self._node, self._questions, self._peers, self._send = node, questions, peers, send
        self._place = FIRST

    async def label(self, labelling: Labelling) -> Answer:
        """Join or park labels, wherever their predictions are. Raises NotReady: then send all of them again."""
        peers = self._peers()
        if not peers or not labelling.labels:
            answer: Answer = await ask(self._questions, labelling)
            return answer
        holders = await self._holders([label for _, label in labelling.labels], peers)
        groups: dict[str, Numbered] = {self._node: []}
        for numbered, holder in zip(labelling.labels, holders, strict=True):
            groups.setdefault(holder or self._node, []).append(numbered)
        here = groups.pop(self._node)
        answers = await asyncio.gather(
            ask(self._questions, Labelling(here, labelling.refused)),
            *(self._join(peers[node], labels) for node, labels in groups.items()),
        )
        return _sum(answers)

    async def wander(self) -> None:
        """Bring parked labels to their predictions, for ever."""
        while True:
            await asyncio.sleep(STRAY_S)
            try:
                await self.page()
            except Unavailable as error:
                log.info("parked labels stay where they are: %s", error)

    async def page(self) -> None:
        """Ask the other nodes for the next parked labels."""
        peers = self._peers()
        strays: list[Label] = await ask(self._questions, Straying(self._place, STRAYS)) if peers else []
        self._place = strays[-1].place if len(strays) == STRAYS else FIRST
        if not strays:
            return
        holders = await self._holders(strays, peers)
        for node, address in peers.items():
            if labels := [label for label, holder in zip(strays, holders, strict=True) if holder == node]:
                answer = await self._join(address, list(enumerate(labels)))
                refused = {one.index for one in answer.refused}  # they stay, unless they replaced others
                left = [label for i, label in enumerate(labels) if i not in refused]
                await ask(self._questions, Leaving(left, [labels[i] for i in sorted(refused)]))

    async def _holders(self, labels: Sequence[Label], peers: Mapping[str, str]) -> list[str]:
        """Of each label the node with the latest prediction under its id; empty where none has one."""
        body = msgspec.msgpack.encode(labels)
        asked = [self._held(address, body, len(labels)) for address in peers.values()]
        answers = await asyncio.gather(ask(self._questions, Holding(labels)), *asked)
        nodes = [self._node, *peers]
        best = [max(zip(map(_or_never, times), nodes, strict=True)) for times in zip(*answers, strict=True)]
        return [node if time > -math.inf else "" for time, node in best]

    async def _held(self, address: str, body: bytes, n: int) -> list[float]:
        """A node that does not answer may hold them: then they are parked, and it is asked again."""
        try:
            found = msgspec.msgpack.decode(await self._call(address, HELD, body), type=list[float])
        except (Unavailable, msgspec.DecodeError) as error:
            log.warning("%s; labels of its predictions wait here", error)
            return [math.nan] * n
        return found if len(found) == n else [math.nan] * n

    async def _join(self, address: str, labels: Numbered) -> Answer:
        answer = await self._call(address, JOIN, msgspec.msgpack.encode(labels))
        try:
            return msgspec.msgpack.decode(answer, type=Answer)
        except msgspec.DecodeError as error:
            raise NotReady(f"the node at {address} did not say what became of labels: {error}") from None

    def _call(self, address: str, path: str, body: bytes) -> Awaitable[bytes]:
        return asyncio.get_running_loop().run_in_executor(None, self._send, address, path, body)


def _or_never(time: float) -> float:
    return -math.inf if math.isnan(time) else time


def _sum(answers: Sequence[Answer]) -> Answer:
    return Answer(
        sum(answer.joined for answer in answers),
        sum(answer.parked for answer in answers),
        sum(answer.unknown for answer in answers),
        sorted((refused for answer in answers for refused in answer.refused), key=lambda refused: refused.index),
        sum(answer.doubled for answer in answers),
        sum(answer.conflicting for answer in answers),
        sum(answer.late for answer in answers),
    )
