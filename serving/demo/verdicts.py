"""What the sidecar says at ``GET /verdicts``, as far as a client of it shows or sums it up."""

import aiohttp
import msgspec


class Drift(msgspec.Struct, frozen=True):
    """Of one feature, or of `_all`: evidence and threshold in nats, effect sizes, when the alarm was raised."""

    log_e: float
    threshold: float
    alarm: bool
    psi: float = 0.0
    ks: float = 0.0
    n: int = 0
    since: float | None = None


class Risk(msgspec.Struct, frozen=True):
    """`mean` is of the `n` labels so far, None without; evidence that it rose above `bound`, in nats."""

    mean: float | None
    n: int
    log_e: float
    threshold: float
    alarm: bool
    bound: float
    since: float | None = None


class Labels(msgspec.Struct, frozen=True):
    """`coverage_ratio` is of predictions past the label horizon; None before there are any."""

    joined: int
    coverage_ratio: float | None = None


class Version(msgspec.Struct, frozen=True):
    state: str
    drift: dict[str, Drift]
    risk: Risk
    labels: Labels
    rows: int
    promise: str = ""


class Verdicts(msgspec.Struct, frozen=True):
    """By model and version. `clock` is the event time reached, seconds since 1970 UTC."""

    models: dict[str, dict[str, Version]] = {}
    clock: float | None = None
    lost_rows: int = 0
    settled: bool = True  # nothing that was written waits to be read or judged

    def of(self, model: str) -> dict[str, Version]:
        return self.models.get(model, {})


async def fetch(session: aiohttp.ClientSession, url: str) -> Verdicts | None:
    """The verdicts of this moment; None when the sidecar does not answer, for it may be restarting."""
    try:
        async with session.get(url) as response:
            return msgspec.json.decode(await response.read(), type=Verdicts) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None
