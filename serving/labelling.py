"""Labels on their way from the gateway to the node's sidecar, which answers once they are on disk."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from serving.codec import Batch, Expander, Lines
from serving.errors import NotReady

MAX_REFUSED = 1000  # refused labels that an answer names
PARTS = ("joined", "parked", "unknown")  # what was not refused is one of these
OUTCOMES = (*PARTS, "doubled", "conflicting", "late")

Submit = Callable[[list[dict[str, Any]]], Awaitable[dict[str, Any]]]


@dataclass
class Outcome:
    """What became of the labels of one request, batch by batch. Of the refused ones the first are named."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    refused: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: Batch, answer: dict[str, Any]) -> None:
        """`answer` is the sidecar's to the batch's labels, whose indices are those in the batch."""
        for outcome in OUTCOMES:
            self.counts[outcome] += int(answer.get(outcome, 0))
        room, unfit = MAX_REFUSED - len(self.named), answer.get("refused", [])
        told = [msgspec.to_builtins(one) for one in batch.refused[:room]]
        for one in unfit[:room]:
            place = batch.places[one["index"]]
            told.append({**one, "index": place.at} | ({} if place.line is None else {"line": place.line}))
        self.refused += len(batch.refused) + len(unfit)
        self.named += sorted(told, key=lambda one: int(one["index"]))[:room]

    def each(self) -> dict[str, int]:
        """Every label once."""
        return {part: self.counts[part] for part in PARTS} | {"refused": self.refused}

    def document(self) -> dict[str, Any]:
        named = sorted(self.named, key=lambda one: int(one["index"]))
        return {**self.counts, "refused": named, "refused_total": self.refused}


class Intake:
    """Labels of one request for `model` on their way to the store, a batch after the other; `outcome` counts them."""

    def __init__(self, model: str, submit: Submit) -> None:
        self.outcome, self._model, self._submit = Outcome(), model, submit

    async def take(self, batches: Iterable[Batch]) -> None:
        """Between two batches the loop gets its turn, also where they have no label that would be waited for."""
        for batch in batches:
            rows = [{"model": self._model, **msgspec.to_builtins(one)} for one in batch.labels]
            self.outcome.add(batch, await self._submit(rows) if rows else {})
            await asyncio.sleep(0)

    async def stream(self, parts: AsyncIterator[bytes], expander: Expander, lines: Lines) -> None:
        """A body while it comes; between two pieces of it the loop gets its turn."""
        async for part in parts:
            for piece in expander.feed(part):
                await self.take(lines.feed(piece))
                await asyncio.sleep(0)
        await self.take(lines.feed(expander.end(), last=True))


class Desk:
    """A client of the sidecar's unix socket; made and used inside one event loop."""

    def __init__(self, socket: Path, timeout_s: float = 10.0) -> None:
        self._socket, self._timeout_s = socket, timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def submit(self, labels: list[dict[str, Any]]) -> dict[str, Any]:
        """The sidecar's count of what was joined, parked, unknown, refused. Raises NotReady when it is away."""
        try:
            async with self._open().post("http://sidecar/labels", data=msgspec.json.encode(labels)) as response:
                if response.status != 200:
                    raise NotReady(f"the monitors answered {response.status}: {(await response.text())[:200]}")
                counted: dict[str, Any] = await response.json()
                return counted
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NotReady(
                f"labels were not taken, the monitors are away ({type(error).__name__}); send again"
            ) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=timeout)
        return self._session
