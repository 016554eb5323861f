"""Pools without a replica for which requests wait: small files, written by the workers of a node, read by its actor."""

import os
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from serving.planning import PoolKey
from serving.routing import Table

FOLDER = "asleep"
FRESH_S = 2.0  # a worker says it again ten times a second; what is older was left by one that ended


def tell(run_dir: Path, pools: Collection[PoolKey]) -> None:
    """That requests of this process wait for `pools`; for none, there is no file."""
    path = run_dir / FOLDER / f"{os.getpid()}.json"
    if not pools:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_bytes(msgspec.json.encode(pools))
    staged.rename(path)


def told(run_dir: Path) -> set[PoolKey]:
    """All that somebody waits for now."""
    found: set[PoolKey] = set()
    for path in (run_dir / FOLDER).glob("*.json"):
        try:
            if time.time() - path.stat().st_mtime < FRESH_S:
                found.update(msgspec.json.decode(path.read_bytes(), type=list[PoolKey]))
        except (FileNotFoundError, msgspec.DecodeError):
            continue
    return found


def may_sleep(table: bytes) -> bool:
    """Whether a routing table has a pool that may have no replica."""
    models = msgspec.json.decode(table, type=Table).models.values()
    return any(entry.sleepers for model in models for entry in model.versions.values())
