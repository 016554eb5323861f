"""Inputs that were in flight when replicas died: one that was in two deaths is not tried on a third replica."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from serving.protocol import Array

POISON_DEATHS, POISON_S = 2, 600.0


@dataclass(frozen=True, slots=True)
class Death:
    """How many replicas died while they had an input, until when that counts, and on which link it was last."""

    count: int
    until: float
    link: object


class Suspects:
    """Of one version. False while nobody is suspected, so that nothing need be asked."""

    def __init__(self) -> None:
        self._deaths: dict[bytes, Death] = {}
        self._until = 0.0  # when the last of them is forgotten

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def died(self, inputs: Sequence[Array], link: object, now: float) -> None:
        """Count a death once for an input, however many requests carried the same bytes."""
        key = _fingerprint(inputs)
        known = self._deaths.get(key, Death(0, 0.0, None))
        if known.link is not link:
            self._until = now + POISON_S
            self._deaths[key] = Death(known.count + 1, self._until, link)

    def survived(self, inputs: Sequence[Array]) -> None:
        """Whatever killed, it was not this input."""
        self._deaths.pop(_fingerprint(inputs), None)

    def poisonous(self, inputs: Sequence[Array], now: float) -> bool:
        if now >= self._until:  # or every request would be looked at until somebody dies again
            self._deaths.clear()
            return False
        death = self._deaths.get(_fingerprint(inputs))
        return death is not None and death.count >= POISON_DEATHS and death.until > now

    def forget(self, now: float) -> None:
        """Those whose time is over."""
        self._deaths = {key: death for key, death in self._deaths.items() if death.until > now}


def _fingerprint(inputs: Sequence[Array]) -> bytes:
    """Of the bytes."""
    digest = blake2b(digest_size=16)
    for array in inputs:
        digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.digest()
