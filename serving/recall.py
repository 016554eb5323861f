"""Answers that a version gave before, given again: its cache in one worker, counted and recorded.

An answer given again is a prediction that was served, so it is recorded like any other, with its own request id and
time: the monitors judge what users saw. Errors are never kept, and neither is what nobody waited for.
"""

import asyncio
import time
from collections.abc import Sequence

from serving.batching import Answer, Item, Promise
from serving.cache import Cache
from serving.config import Cache as Settings
from serving.errors import GaugewayError
from serving.manifest import Manifest
from serving.metrics import Page
from serving.protocol import Array
from serving.recorder import Recorder

Given = tuple[Item, list[Array]]  # a request, and the outputs it gets


class Recall:
    """Of one version, as `settings` say."""

    def __init__(self, settings: Settings, manifest: Manifest, page: Page, recorder: Recorder) -> None:
        self._cache = Cache(manifest.digest, max_bytes=settings.max_bytes, ttl_s=settings.ttl_s)
        self._shared, self._recorder = settings.scope == "shared", recorder
        labels = {"model": manifest.model, "version": manifest.version}
        self._hits = page.counter("cache_lookups_total", **labels, outcome="hit")
        self._misses = page.counter("cache_lookups_total", **labels, outcome="miss")
        self._bytes = page.gauge("cache_bytes", **labels)
        self._given: list[Given] = []  # in this turn of the loop

    def key(self, inputs: Sequence[Array], client: str) -> bytes:
        return self._cache.key(inputs, "" if self._shared else client)

    def find(self, key: bytes) -> list[Array] | None:
        outputs = self._cache.get(key, time.monotonic())
        (self._misses if outputs is None else self._hits).add()
        return outputs

    def give(self, item: Item, outputs: list[Array]) -> None:
        """Keep the promise of `item` when this turn of the loop ends: who asks has heard nothing yet."""
        if not self._given:
            asyncio.get_running_loop().call_soon(self._give_all)
        self._given.append((item, outputs))

    def _give_all(self) -> None:
        """Each is expected on record before its client has it."""
        given, self._given = self._given, []
        for item, outputs in given:
            self._recorder.recalled(item, outputs)
            if not item.promise.done():
                item.promise.set_result(Answer(outputs, 0.0, 0.0))

    def keep(self, key: bytes, outputs: Sequence[Array]) -> None:
        self._cache.put(key, outputs, time.monotonic())
        self._bytes.set(self._cache.bytes)

    def close(self) -> None:
        self._bytes.set(0.0)


class Keeping:
    """A promise whose answer is kept for the next who asks the same."""

    __slots__ = ("_key", "_promise", "_recall")

    def __init__(self, recall: Recall, key: bytes, promise: Promise) -> None:
        self._recall, self._key, self._promise = recall, key, promise

    def done(self) -> bool:
        return self._promise.done()

    def cancelled(self) -> bool:
        return self._promise.cancelled()

    def set_result(self, result: Answer, /) -> None:
        self._recall.keep(self._key, result.outputs)
        self._promise.set_result(result)

    def set_exception(self, exception: GaugewayError, /) -> None:
        self._promise.set_exception(exception)
