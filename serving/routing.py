"""Which version answers a request. Pure: no clock, no random number, no await.

A key (a user, a session; without one the request's id) is hashed with a salt into [0, 1), and versions own
intervals of it. When weights change, `rebalance` moves the least possible share of keys: what a version loses is
cut from its intervals and given to those that gain.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal

import msgspec

from serving.config import Cache, Capture
from serving.errors import Forbidden, UnknownVersion
from serving.manifest import Manifest

Reason = Literal["sticky", "weight", "url", "override"]
Key = tuple[str, str, str]  # model, version, digest
_TINY = 1e-12


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """The keys in [previous interval's end, `end`) belong to `version`."""

    end: float
    version: str


class Policy(msgspec.Struct, frozen=True):
    """How one model's traffic is split. `sticky` is ``header:x``, ``cookie:x``, ``parameter:x`` or empty."""

    model: str
    intervals: tuple[Interval, ...]
    versions: tuple[str, ...]  # all that can be asked for by name
    sticky: str = ""
    salt: str = ""

    @property
    def weights(self) -> dict[str, float]:
        return weights_of(self.intervals)

    @property
    def key_salt(self) -> bytes:
        """With which keys are hashed, for `hash_key`."""
        return (self.salt or self.model).encode()[:64]


class Route(msgspec.Struct, frozen=True):
    """The decision, why, with which probability, and the sticky key's 64-bit hash; 0 where there was none."""

    version: str
    reason: Reason
    propensity: float
    key_hash: int


class Router:
    """A policy, made ready for many decisions.

    >>> router = Router(Policy("m", initial({"1": 0.75, "2": 0.25}), ("1", "2")))
    >>> router.choose(key="alice") == router.choose(key="alice")
    True
    >>> router.choose(key="alice", version="2").reason
    'url'
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._ends = [interval.end for interval in policy.intervals[:-1]]
        self._versions = [interval.version for interval in policy.intervals]
        self._weights = policy.weights
        self._only = Route(self._versions[0], "weight", 1.0, 0) if len(self._versions) == 1 else None
        self._salt = policy.key_salt

    def choose(self, key: str, sticky: bool = False, version: str | None = None, override: str | None = None) -> Route:
        """Raises UnknownVersion, or Forbidden when URL and override name different versions."""
        if version and override and version != override:
            raise Forbidden(f"the URL names version {version!r}, the header x-gaugeway-version {override!r}")
        if self._only is not None and not (sticky or version or override):
            return self._only  # whatever its hash
        key_hash = hash_key(self._salt, key)
        if version or override:
            return self._pinned(version or override or "", "url" if version else "override", key_hash * sticky)
        chosen = self._versions[bisect_right(self._ends, key_hash / 2**64)]
        return Route(chosen, "sticky" if sticky else "weight", self._weights[chosen], key_hash * sticky)

    def _pinned(self, version: str, reason: Reason, key_hash: int) -> Route:
        if version not in self.policy.versions:
            raise UnknownVersion(self.policy.model, version, self.policy.versions)
        return Route(version, reason, 1.0, key_hash)


def hash_key(salt: bytes, key: str) -> int:
    """64 bits of BLAKE2b; divided by 2**64 they are uniform in [0, 1)."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=salt).digest(), "big")


def initial(weights: Mapping[str, float]) -> tuple[Interval, ...]:
    """Intervals in the order of the versions; weights are taken in proportion to their sum, which is above 0."""
    return _closed(_cut(sorted(_shares(weights).items())))


def rebalance(intervals: Iterable[Interval], weights: Mapping[str, float]) -> tuple[Interval, ...]:
    """New intervals with these weights in which no key moves that need not.

    >>> before = initial({"1": 0.8, "2": 0.2})
    >>> [i.version for i in rebalance(before, {"1": 0.7, "2": 0.2, "3": 0.1})]
    ['1', '3', '2']
    """
    left, intervals = _shares(weights), tuple(intervals)
    if _same(weights_of(intervals), left):
        return intervals
    pieces: list[tuple[float, str | None]] = []
    for start, interval in _with_starts(intervals):
        kept = min(interval.end - start, left.get(interval.version, 0.0))
        left[interval.version] = left.get(interval.version, 0.0) - kept
        pieces += [(kept, interval.version), (interval.end - start - kept, None)]
    return _closed(_give(pieces, {v: w for v, w in sorted(left.items()) if w > _TINY}))


def weights_of(intervals: Iterable[Interval]) -> dict[str, float]:
    """The share of all keys that each version has; those that have none are left out."""
    shares: dict[str, float] = {}
    for start, interval in _with_starts(intervals):
        shares[interval.version] = shares.get(interval.version, 0.0) + interval.end - start
    return shares


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {version: weight / total for version, weight in weights.items()}


def _same(shares: Mapping[str, float], others: Mapping[str, float]) -> bool:
    """Up to rounding: a table whose weights nobody changed must not change."""
    return all(abs(shares.get(v, 0.0) - others.get(v, 0.0)) < _TINY for v in shares.keys() | others.keys())


def _give(pieces: list[tuple[float, str | None]], wanting: dict[str, float]) -> list[Interval]:
    """Fill the free pieces with the versions that want more, in order."""
    filled: list[tuple[float, str]] = []
    for width, owner in pieces:
        while width > _TINY:
            version = owner or next(iter(wanting), None) or _neighbour(filled, pieces)
            part = width if owner or version not in wanting else min(width, wanting[version])
            filled.append((part, version))
            width -= part
            if not owner and version in wanting:
                wanting[version] -= part
                wanting = {v: w for v, w in wanting.items() if w > _TINY}
    return _cut([(version, width) for width, version in filled])


def _neighbour(filled: list[tuple[float, str]], pieces: list[tuple[float, str | None]]) -> str:
    """Who gets a crumb that rounding left."""
    return filled[-1][1] if filled else next(owner for width, owner in pieces if owner and width > _TINY)


def _cut(shares: Iterable[tuple[str, float]]) -> list[Interval]:
    intervals: list[Interval] = []
    at = 0.0
    for version, width in shares:
        if width <= _TINY:
            continue
        at += width
        if intervals and intervals[-1].version == version:
            intervals.pop()
        intervals.append(Interval(at, version))
    return intervals


def _closed(intervals: list[Interval]) -> tuple[Interval, ...]:
    """The last interval ends at 1 exactly, whatever rounding left."""
    return (*intervals[:-1], Interval(1.0, intervals[-1].version))


def _with_starts(intervals: Iterable[Interval]) -> Iterable[tuple[float, Interval]]:
    start = 0.0
    for interval in intervals:
        yield start, interval
        start = interval.end


class VersionEntry(msgspec.Struct, frozen=True):
    """One version in the routing table: what it is, how its requests are batched, which answers are kept, what of
    them is captured."""

    manifest: Manifest
    max_batch_rows: int = 256
    cache: Cache = msgspec.field(default_factory=Cache)
    sleepers: tuple[str, ...] = ()  # pools that may have no replica: they are woken when requests wait
    sleeps: bool = False  # all of them are
    capture: Capture = msgspec.field(default_factory=Capture)

    @property
    def key(self) -> Key:
        return self.manifest.model, self.manifest.version, self.manifest.digest


class ModelEntry(msgspec.Struct, frozen=True):
    policy: Policy
    versions: dict[str, VersionEntry]


class Table(msgspec.Struct, frozen=True):
    """All that a gateway worker must know of the control plane; a higher generation replaces a lower one."""

    generation: int = 0
    models: dict[str, ModelEntry] = {}
