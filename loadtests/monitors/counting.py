"""Processor time of all that a sidecar does with a row, and of the least that counting it could take."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.monitors.traffic import Traffic
from monitors.parcel import Delivery
from monitors.reference import PREDICTION, Profile
from monitors.slot import decode
from monitors.station import COMMIT_S, Station
from serving.config import Monitors

HOUR_S = 3600.0


@dataclass(frozen=True)
class Counted:
    """What was done in so many processor seconds. `values` are those of features that are in the sealed counts."""

    rows: int
    values: int
    spent_s: float

    @property
    def ns(self) -> float:
        """A value."""
        return self.spent_s / self.values * 1e9


def count(traffic: Traffic, profile: Profile, rows: int, per_record: int, rate: float) -> Counted:
    """Through a station: rings, cells, sketches, rows that wait, the journal."""
    settings, manifest, document = Monitors(), traffic.manifest(profile), profile.encode()
    every, spent = round(COMMIT_S / settings.poll_s), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        station = Station(settings, "n", folder, folder / "monitors.db", lambda *_: manifest, lambda *_: document)
        looks = traffic.written(folder / "worker-0.ring", manifest, rows, per_record, rate)
        for turn, now in enumerate(looks, 1):
            start = time.process_time()
            while station.poll(now):
                pass
            if turn % every == 0:
                station.commit(at_once=True)
            spent += time.process_time() - start
        station.poll(now + HOUR_S)  # all slots are sealed
        station.commit(at_once=True)
        counted = _sealed(station.delivery, spent)
        station.close()
    return counted


def bare(traffic: Traffic, profile: Profile, rows: int, rate: float) -> Counted:
    """The floor: searchsorted and bincount of numbers, `collections.Counter` of texts, and nothing else."""
    step, spent, values = round(rate * Monitors().poll_s), 0.0, 0
    laws = [law for name, law in profile.features.items() if name != PREDICTION]
    for first in range(0, rows, step):
        columns = list(traffic.rows(min(step, rows - first), seed=first + 1).T)
        start = time.process_time()
        if traffic.categories:
            values += sum(Counter(column.tolist()).total() for column in columns)
        else:
            cells = (np.searchsorted(law.bounds, column, "right") for law, column in zip(laws, columns, strict=True))
            values += sum(int(np.bincount(cell, minlength=14).sum()) for cell in cells)
        spent += time.process_time() - start
    return Counted(rows, values, spent)


def _sealed(delivery: Delivery, spent_s: float) -> Counted:
    """What the node would send to the judge."""
    slots = [decode(data) for parcel in delivery.parcels for *_, data in parcel.slots]
    values = sum(int(cells.sum()) for slot in slots for name, cells in slot.cells.items() if not name.startswith("_"))
    return Counted(sum(slot.rows for slot in slots), values, spent_s)
