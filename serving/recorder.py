"""What is written down when a batch is over: metrics of the batch, and one Record for the monitors.

What ends within a few milliseconds is one record: at one connection every request is a batch, and a record costs
the worker and the sidecar more than the row in it.
"""

import asyncio
from collections.abc import Callable

from serving.batching import ABANDONED, Finished, Item
from serving.channel import Result
from serving.config import Capture
from serving.excerpt import captured
from serving.manifest import Manifest
from serving.metrics import Page
from serving.packed import Encoder, Request
from serving.protocol import Array
from serving.ring import RingWriter

GATHER_S, ENOUGH_ROWS = 0.005, 64
SMALL_BYTES = 4096  # of one tensor in one batch


class Recorder:
    """Of one version in one worker. Only the inputs that declared features name are recorded, and what is captured.

    `secret` is that of hashes in place of values.
    """

    def __init__(self, manifest: Manifest, page: Page, ring: RingWriter | None, secret: bytes = b"") -> None:
        self._manifest, self._secret, self._capture = manifest, secret, Capture()
        labels = {"model": manifest.model, "version": manifest.version}
        self._queue = page.histogram("queue_duration_seconds", **labels)
        self._infer = page.histogram("inference_duration_seconds", **labels)
        self._rows = page.histogram("batch_rows", **labels)
        records = page.counter("records_total", **labels)
        self._gathering = Gathering(manifest, ring, records.add) if ring is not None else None

    def capture(self, wanted: Capture) -> None:
        """From the next batch on."""
        if wanted != self._capture and self._gathering is not None:
            self._gathering.capture(self._manifest, wanted, self._secret)
        self._capture = wanted

    def expect(self, rows: int) -> None:
        """A record of so many rows follows: what dies before it is written counts as lost."""
        if self._gathering is not None:
            self._gathering.expect(rows)

    def __call__(self, finished: Finished) -> None:
        """A batch is over; one that was answered was expected."""
        result, rows = finished.result, sum([item.rows for item in finished.items])
        if result is not None:
            self._queue.observe(max(finished.queue_s))
            self._infer.observe(result.infer_s)
            self._rows.observe(rows)
        if self._gathering is not None:
            if result is None:
                self._gathering.expect(rows)
            self._gathering.add(finished, rows)

    def recalled(self, item: Item, outputs: list[Array]) -> None:
        """An answer that is given again: a prediction like any other, but nothing ran."""
        if self._gathering is not None:
            self._gathering.expect(item.rows)
            status = ABANDONED if item.promise.done() else 200
            self._gathering.add(Finished([item], [status], [0.0], Result(outputs, 0.0, 0.0)), item.rows)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathering is not None:
            self._gathering.flush()


class Gathering:
    """Batches of one kind on their way into one record: for `GATHER_S`, or until they have `ENOUGH_ROWS`.

    A batch of large rows is a record of its own: what is too large for the ring is lost, and must not take others
    with it.
    """

    def __init__(self, manifest: Manifest, ring: RingWriter, written: Callable[[int], None]) -> None:
        self._ring, self._written, self._independent = ring, written, manifest.rows_independent
        signature = manifest.signature
        wanted = {feature.input for feature in manifest.features}
        predicted = manifest.prediction.output if manifest.prediction else None
        self._inputs = [i for i, spec in enumerate(signature.inputs) if spec.name in wanted]
        self._outputs = [i for i, spec in enumerate(signature.outputs) if spec.name == predicted]
        self._timer: asyncio.TimerHandle | None = None
        self._begin()
        self.capture(manifest, Capture(), b"")

    def capture(self, manifest: Manifest, wanted: Capture, secret: bytes) -> None:
        """What is gathered was gathered for another excerpt: it is written first."""
        self.flush()
        self._extras, excerpt = captured(manifest, wanted, self._inputs, self._outputs, secret)
        inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
        self._encoder = Encoder(
            manifest.model, manifest.version, manifest.digest,
            inputs=[(inputs[i].name, inputs[i].datatype) for i in self._inputs],
            outputs=[(outputs[i].name, outputs[i].datatype) for i in self._outputs],
            extras=[(extra.name, extra.datatype) for extra in self._extras], excerpt=excerpt,
        )  # fmt: skip

    def _begin(self) -> None:
        self._requests: list[Request] = []
        self._ids: list[str] = []
        self._columns: list[list[Array]] = []
        self._kind: object = None
        self._rows, self._infer_s = 0, 0.0

    def expect(self, rows: int) -> None:
        self._ring.expect(rows)

    def add(self, finished: Finished, rows: int) -> None:
        """A batch that was expected; the record keeps the longest of the runs in it."""
        columns = self._recorded(finished)
        kind = tuple([arrays[0].shape[1:] for arrays in columns]) if finished.result else None
        alone = not self._independent or not _small(columns)
        if self._requests and (alone or kind != self._kind):
            self.flush()
        self._describe(finished)
        if self._columns:
            for gathered, arrays in zip(self._columns, columns, strict=True):
                gathered += arrays
        else:
            self._columns, self._kind = columns, kind
        self._rows += rows
        if finished.result is not None:
            self._infer_s = max(self._infer_s, finished.result.infer_s)
        if alone or self._rows >= ENOUGH_ROWS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.flush)

    def _recorded(self, finished: Finished) -> list[list[Array]]:
        """Of each recorded tensor the arrays that make it up; nothing of a batch that failed."""
        if (result := finished.result) is None:
            return []
        columns = [[item.inputs[i] for item in finished.items] for i in self._inputs]
        columns += [[result.outputs[i]] for i in self._outputs]
        if self._extras:
            inputs = [item.inputs for item in finished.items]
            columns += [extra.of(inputs) for extra in self._extras]
        return columns

    def _describe(self, finished: Finished) -> None:
        codes = self._encoder.codes
        for item, queue_s, status in zip(finished.items, finished.queue_s, finished.statuses, strict=True):
            request = (
                item.key_hash,
                item.event_time,
                item.arrival_time,
                item.propensity,
                queue_s,
                item.first_row,
                item.rows,
                status,
                codes[item.reason],
            )
            self._requests.append(request)
            self._ids.append(item.id)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._requests:
            return
        requests, ids, columns, rows, infer_s = self._requests, self._ids, self._columns, self._rows, self._infer_s
        self._begin()
        try:
            payload = self._encoder.encode(requests, ids, rows, columns, infer_s)
        except BaseException:
            self._ring.forfeit(rows)
            raise
        if self._ring.append(payload, rows):
            self._written(rows)


def _small(columns: list[list[Array]]) -> bool:
    """Whether a batch is so small that it may share a record."""
    for arrays in columns:
        for array in arrays:
            size = sum(map(len, array.ravel().tolist())) if array.dtype.hasobject else array.nbytes
            if size > SMALL_BYTES:
                return False
    return True
