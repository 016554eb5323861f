"""What the capture log tells of itself: the numbers behind its metrics."""

import msgspec

Name = tuple[str, str]  # model, version


class Written(msgspec.Struct):
    """Of a version, since it was first captured."""

    rows: int = 0
    bytes: int = 0


class Figures(msgspec.Struct, frozen=True):
    """`dropped` and `expired` are rows by reason; `stored` are bytes on disk, of each version. Empty: nothing is
    captured, and nothing was."""

    written: dict[Name, Written] = {}
    stored: dict[Name, int] = {}
    dropped: dict[str, int] = {}
    expired: dict[str, int] = {}
    lag_s: float | None = None
