"""The data folder: can it be written, is there room, who else may look into it."""

import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from serving.config import Config
from serving.doctor.finding import Finding, fault, ok, warning

GIB, MIB = 2**30, 2**20
ROOM_BYTES, LITTLE_BYTES = 256 * MIB, 2 * GIB  # beside the rings
FUTURE_S = 60.0


@dataclass(frozen=True)
class Facts:
    """`refusal` says why nothing can be written there; `newest_in_s` how far its newest file lies in the future."""

    path: str
    refusal: str
    free_bytes: int
    ring_bytes: int  # that are still to be reserved
    mode: int
    stranger: int | None  # the owner, where that is neither this user nor root
    newest_in_s: float


def gather(config: Config) -> Facts:
    path = config.data
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    info = there.stat()
    rings = (config.gateway.workers + 1) * config.monitors.ring_bytes if config.monitors.enabled else 0
    present = sum(ring.stat().st_size for ring in (config.run_dir / "rings").glob("*.ring"))
    stranger = None if info.st_uid in (os.getuid(), 0) else info.st_uid
    return Facts(str(path), _refusal(there), shutil.disk_usage(there).free, max(0, rings - present),
                 stat.S_IMODE(info.st_mode) if there == path.absolute() else 0o700, stranger,
                 _newest_in_s(config.run_dir))  # fmt: skip


def check(facts: Facts) -> list[Finding]:
    return [_writable(facts), _room(facts), _permissions(facts), _past(facts)]


def _writable(facts: Facts) -> Finding:
    if facts.refusal:
        return fault("data folder", f"{facts.path}: {facts.refusal}",
                     f"mkdir -p {facts.path} && chown $(id -u) {facts.path}, or set data_dir")  # fmt: skip
    return ok("data folder", f"{facts.path} can be written")


def _room(facts: Facts) -> Finding:
    found = f"{facts.free_bytes / GIB:.1f} GiB free, {facts.ring_bytes / GIB:.2f} of them for rings"
    remedy = f"make room on the disk of {facts.path}, or lower monitors.ring_bytes"
    left = facts.free_bytes - facts.ring_bytes
    if left < ROOM_BYTES:
        return fault("disk", found, remedy)
    return warning("disk", found, remedy) if left < LITTLE_BYTES else ok("disk", found)


def _permissions(facts: Facts) -> Finding:
    if facts.stranger is not None:
        return fault("permissions", f"{facts.path} belongs to user {facts.stranger}", f"chown -R $(id -u) {facts.path}")
    if facts.mode & 0o022:
        return fault("permissions", f"{facts.path} has mode {facts.mode:o}: others may change models and weights",
                     f"chmod -R go-w {facts.path}")  # fmt: skip
    return ok("permissions", f"only its owner may change {facts.path}")


def _past(facts: Facts) -> Finding:
    if facts.newest_in_s > FUTURE_S:
        return fault("time", f"{facts.path} was written {facts.newest_in_s:.0f} s in the future: the clock went back",
                     "chronyc makestep, or date -s: until then no block is sealed")  # fmt: skip
    return ok("time", "nothing was written in the future")


def _refusal(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _newest_in_s(run_dir: Path) -> float:
    files = [run_dir / name for name in ("table.json", "config.json", "monitors.db")]
    return max((file.stat().st_mtime - time.time() for file in files if file.exists()), default=0.0)
