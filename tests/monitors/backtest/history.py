"""Sixty days of rows with a known past: from day 30 on `temp` is higher, from day 40 to 49 the model is wrong."""

from functools import cache

import numpy as np

from monitors.backtest.document import Document, File
from monitors.backtest.past import Past, Ruler
from monitors.backtest.run import run
from monitors.reference import Part, Profile, build
from serving.config import Monitors
from serving.protocol import Array

DAY_S, DAYS, ROWS = 86400.0, 60, 300
SETTINGS = Monitors(block_s=DAY_S)
EVIL = "temp<script>"  # a name that a page must not run


def rows(days: int, seed: int, *, warm_from: int = 10**9, wrong: range = range(0)) -> Part:
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), ROWS)
    p = rng.beta(1.0, 3.0, len(day))
    labels = np.where(np.isin(day, wrong), rng.random(len(day)) < 0.9 - 0.8 * p, rng.random(len(day)) < p) * 1.0
    labels[::50] = np.nan
    values: dict[str, Array] = {
        EVIL: rng.normal(10.0 + 2.0 * (day >= warm_from), 1.0),
        "carrier": rng.choice(np.array(["AA", "UA", "B6"], object), size=len(day)),
    }
    return Part(values, p, labels, (day + np.sort(rng.random(len(day)))) * DAY_S)


@cache
def profile() -> Profile:
    part = rows(40, 1)
    return build(part.values, {}, prediction=part.prediction, labels=part.labels, task="classification", time=part.time)


@cache
def document(days: int = DAYS) -> Document:
    ruler = Ruler(DAY_S, 60.0)
    past = Past(profile(), ruler, SETTINGS, ["carrier"])
    past.add(rows(days, 2, warm_from=30, wrong=range(40, 50)))
    file = File("rows.parquet", past.rows, "0" * 64)
    return run(profile(), past, ruler, SETTINGS, reference=file, data=file, gaugeway="0.1.0")
