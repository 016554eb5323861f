"""Which replicas a gateway worker is linked to, and which of them it asks first. Pure.

Those of its own node always: their bytes never cross the network. All others while they are `MOST` or fewer; beyond
that `MOST` of them by rendezvous hashing (Thaler and Ravishankar, 1998), so that connections grow with gateways, not
with gateways times replicas. Every replica is ranked by a hash of the gateway and itself: one that comes or goes
changes no other's rank, so at most one link of a gateway moves, and gateways choose independently of each other.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Protocol, TypeVar

MOST = 64


def chosen(gateway: str, near: Iterable[str], far: Iterable[str], most: int = MOST) -> set[str]:
    """Of the replicas of one version, those that `gateway` is linked to: all near ones, and of the far ones the rest.

    >>> chosen("node-1/0", ["a"], ["b", "c"]) == {"a", "b", "c"}
    True
    >>> len(chosen("node-1/0", ["a"], [f"far-{n}" for n in range(500)]))
    64
    """
    here, there = set(near), set(far)
    room = max(0, most - len(here))
    return here | (there if len(there) <= room else set(sorted(there, key=lambda one: _rank(gateway, one))[:room]))


class Placed(Protocol):
    """A link: `host` is the node of its replica, empty for the own one; `state` as `serving.channel.State`."""

    @property
    def host(self) -> str: ...
    @property
    def state(self) -> str: ...


L = TypeVar("L", bound=Placed)


def elsewhere(free: list[L], links: list[L], host: str) -> list[L]:
    """Of the `free` ones those that are not on `host`, if any ready one of all `links` is not: else all.

    A node that lost one replica may be losing all of them: what is tried once more must not meet the next, and waits
    rather for a busy one. For one that does not answer it must not wait.
    """
    others = any(link.host != host and link.state == "ready" for link in links)
    return [link for link in free if link.host != host] if others else free


def _rank(gateway: str, replica: str) -> tuple[bytes, str]:
    return blake2b(
        replica.encode(), key=blake2b(gateway.encode(), digest_size=32).digest(), digest_size=8
    ).digest(), replica
