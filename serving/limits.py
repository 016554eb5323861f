"""What a client of the data plane may take: time, memory, connections."""

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """A body must go on within `body_idle_s` and at `min_bytes_per_s` on average; one that is taken in parts, in each.

    `max_body_bytes` is for bodies that are taken whole.
    """

    max_body_bytes: int = 64 * 2**20
    max_buffered_bytes: int = 2**30  # of all bodies that are large or under way
    head_s: float = 5.0
    body_idle_s: float = 5.0
    min_bytes_per_s: float = 1024.0
    keep_alive_s: float = 75.0
    farewell_s: float = 2.0  # of a drain: a client that asks within hears that the connection ends
    write_s: float = 30.0
    max_connections: int = 0  # 0: half of the descriptor limit

    @property
    def connections(self) -> int:
        return self.max_connections or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


DEFAULT = Limits()
