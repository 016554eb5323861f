"""What is written down when a batch is over: metrics of the batch, and one Record for the monitors."""

from serving.batching import ABANDONED, Finished, Item
from serving.channel import Result
from serving.manifest import Manifest
from serving.metrics import Page
from serving.packed import Encoder
from serving.protocol import Array
from serving.ring import RingWriter


class Recorder:
    """Of one version in one worker. Only the inputs that declared features name are recorded."""

    def __init__(self, manifest: Manifest, page: Page, ring: RingWriter | None) -> None:
        self._ring = ring
        labels = {"model": manifest.model, "version": manifest.version}
        self._queue = page.histogram("queue_duration_seconds", **labels)
        self._infer = page.histogram("inference_duration_seconds", **labels)
        self._rows = page.histogram("batch_rows", **labels)
        self._records = page.counter("records_total", **labels)
        signature = manifest.signature
        wanted = {feature.input for feature in manifest.features}
        predicted = manifest.prediction.output if manifest.prediction else None
        self._inputs = [i for i, spec in enumerate(signature.inputs) if spec.name in wanted]
        self._outputs = [i for i, spec in enumerate(signature.outputs) if spec.name == predicted]
        inputs = [(signature.inputs[i].name, signature.inputs[i].datatype) for i in self._inputs]
        outputs = [(signature.outputs[i].name, signature.outputs[i].datatype) for i in self._outputs]
        key = (manifest.model, manifest.version, manifest.digest)
        self._encoder = Encoder(*key, inputs=inputs, outputs=outputs)

    def expect(self, rows: int) -> None:
        """A record of so many rows follows in this turn of the loop: what dies before it counts as lost."""
        if self._ring is not None:
            self._ring.expect(rows)

    def __call__(self, finished: Finished) -> None:
        rows = sum(item.rows for item in finished.items)
        if finished.result is not None:
            self._queue.observe(max(finished.queue_s))
            self._infer.observe(finished.result.infer_s)
            self._rows.observe(rows)
        self._write(finished, rows)

    def recalled(self, items: list[Item], outputs: list[Array]) -> None:
        """Answers that are given again: predictions like any other, but nothing ran. Outputs of all rows together."""
        statuses = [ABANDONED if item.promise.done() else 200 for item in items]
        self._write(
            Finished(items, statuses, [0.0] * len(items), Result(outputs, 0.0, 0.0)), sum(i.rows for i in items)
        )

    def _write(self, finished: Finished, rows: int) -> None:
        if self._ring is not None and self._ring.append(self._encode(finished, rows), rows):
            self._records.add(rows)

    def _encode(self, finished: Finished, rows: int) -> bytes:
        items, result, codes = finished.items, finished.result, self._encoder.codes
        requests = [
            (
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
            for item, queue_s, status in zip(items, finished.queue_s, finished.statuses, strict=True)
        ]
        ids = [item.id for item in items]
        if result is None:
            return self._encoder.encode(requests, ids, rows)
        columns = [[item.inputs[i] for item in items] for i in self._inputs]
        columns += [[result.outputs[i]] for i in self._outputs]
        return self._encoder.encode(requests, ids, rows, columns, result.infer_s)
