"""What people order of the judge: rows of the registry's database, which it carries out once each, in their order."""

from typing import Literal

import msgspec


class Order(msgspec.Struct, frozen=True):
    """Who ordered what of a version's monitor, when (seconds since 1970 UTC), and why. Numbers only rise.

    `reset`: the evidence is 0 and no alarm is on. `rebase`: so it is of drift, whose reference are live rows from then
    on, as `monitors.rebase` says, or the profile with the digest `reference`, where the order brings one, of `rows`.
    `learn`: the same, by the judge itself, of the first blocks of live traffic (`monitors.learning`).
    """

    number: int
    kind: Literal["reset", "rebase", "learn"]
    model: str
    version: str
    time: float
    by: str
    why: str
    reference: str = ""
    rows: str = ""
