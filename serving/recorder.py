"""What is written down when a batch is over: metrics of the batch, and one Record for the monitors."""

from serving import record
from serving.batching import ABANDONED, Finished, Item
from serving.channel import Result
from serving.manifest import Manifest
from serving.metrics import Page
from serving.protocol import Array
from serving.record import Column, Record, RingWriter


class Recorder:
    """Of one version in one worker. Only the inputs that declared features name are recorded."""

    def __init__(self, manifest: Manifest, page: Page, ring: RingWriter | None) -> None:
        self._manifest, self._ring = manifest, ring
        self._digest = manifest.digest
        labels = {"model": manifest.model, "version": manifest.version}
        self._queue = page.histogram("queue_duration_seconds", **labels)
        self._infer = page.histogram("inference_duration_seconds", **labels)
        self._rows = page.histogram("batch_rows", **labels)
        self._records = page.counter("records_total", **labels)
        wanted = {feature.input for feature in manifest.features}
        self._inputs = [(i, s) for i, s in enumerate(manifest.signature.inputs) if s.name in wanted]
        predicted = manifest.prediction.output if manifest.prediction else None
        self._outputs = [(i, s) for i, s in enumerate(manifest.signature.outputs) if s.name == predicted]

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
        if self._ring is not None and self._ring.append(record.encode(self._record(finished)), rows):
            self._records.add(rows)

    def _record(self, finished: Finished) -> Record:
        items, result = finished.items, finished.result
        return Record(
            model=self._manifest.model,
            version=self._manifest.version,
            digest=self._digest,
            role="primary",
            ids=[item.id for item in items],
            first_rows=[item.first_row for item in items],
            counts=[item.rows for item in items],
            reasons=[item.reason for item in items],
            propensities=[item.propensity for item in items],
            keys=[item.key_hash for item in items],
            event_times=[item.event_time for item in items],
            arrival_times=[item.arrival_time for item in items],
            statuses=finished.statuses,
            queue_s=finished.queue_s,
            infer_s=result.infer_s if result else 0.0,
            inputs={s.name: _column(s.datatype, items, i) for i, s in self._inputs} if result else {},
            outputs={s.name: Column.of(s.datatype, result.outputs[i]) for i, s in self._outputs} if result else {},
        )


def _column(datatype: str, items: list[Item], i: int) -> Column:
    """The i-th input of all items, joined by joining their bytes."""
    if len(items) == 1:
        return Column.of(datatype, items[0].inputs[i])
    parts = [Column.of(datatype, item.inputs[i]) for item in items]
    return Column(datatype, _joined([item.inputs[i] for item in items]), b"".join(part.data for part in parts))


def _joined(arrays: list[Array]) -> tuple[int, ...]:
    return (sum(array.shape[0] for array in arrays), *arrays[0].shape[1:])
