"""A request larger than a batch: its rows are answered in parts, and its promise is kept once."""

import numpy as np

from serving.batching import Answer, Promise
from serving.errors import GaugewayError, ModelFailure


class Whole:
    """A promise in parts: kept when all are, broken with the first that is."""

    def __init__(self, promise: Promise, count: int) -> None:
        self.promise = promise
        self._answers: list[Answer | None] = [None] * count
        self._missing = count
        self.parts = [Part(self, index) for index in range(count)]

    def keep(self, index: int, answer: Answer) -> None:
        self._answers[index] = answer
        self._missing -= 1
        if not self._missing and not self.promise.done():
            self._join([answer for answer in self._answers if answer is not None])

    def _join(self, answers: list[Answer]) -> None:
        try:
            outputs = [np.concatenate(pieces) for pieces in zip(*(a.outputs for a in answers), strict=True)]
        except ValueError as error:  # a free dimension may have another length in every run
            self.promise.set_exception(ModelFailure(f"outputs of a request's parts do not fit together: {error}"))
        else:
            self.promise.set_result(
                Answer(outputs, max(a.queue_s for a in answers), sum(a.infer_s for a in answers)),
            )


class Part:
    """The promise of some rows; over when the whole is."""

    __slots__ = ("_index", "_kept", "_whole")

    def __init__(self, whole: Whole, index: int) -> None:
        self._whole, self._index, self._kept = whole, index, False

    def done(self) -> bool:
        return self._kept or self._whole.promise.done()

    def cancelled(self) -> bool:
        return not self._kept and self._whole.promise.done()

    def set_result(self, result: Answer, /) -> None:
        self._kept = True
        self._whole.keep(self._index, result)

    def set_exception(self, exception: GaugewayError, /) -> None:
        self._whole.promise.set_exception(exception)
