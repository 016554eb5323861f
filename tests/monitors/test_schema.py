"""A sidecar without data, with old data, or with a reference of another schema says so, and never "ok"."""

import sqlite3
from typing import Any

import msgspec
import numpy as np
import pytest

from monitors.aggregator import Aggregator
from monitors.book import Version
from monitors.court import Judged
from monitors.journal import Journal
from monitors.labels import LabelStore
from monitors.ledger import Ledger
from monitors.parcel import Outbox, Tally
from monitors.profile import PREDICTION, Profile
from monitors.reference import build
from monitors.report import VersionReport, report
from monitors.schema import mismatches
from monitors.slot import ROWS
from serving.config import Monitors
from serving.record import Column, Record
from tests.monitors.traffic import START, manifest, packed, profile, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=6 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600
)
NOW = START + 10**8


def other(**changed: Any) -> Profile:
    """The profile of the tests' traffic with some of its laws replaced."""
    return msgspec.structs.replace(profile(), features=profile().features | changed)


def renamed() -> Profile:
    x = np.random.default_rng(1).normal(size=(2_000, 2)).astype(np.float32)
    return build({"colour": x[:, 0], "x1": x[:, 1]}, {})


def dtype(name: str, dtype: str) -> Any:
    return msgspec.structs.replace(profile().features[name], dtype=dtype)


def said(found: Version, records: list[Record], *, later_s: float = 0.0) -> VersionReport:
    """What is said of a version after these records, `later_s` after the last was read."""
    name = found.manifest.model, found.manifest.version
    ledger = Ledger(SETTINGS, LabelStore(sqlite3.connect(":memory:", isolation_level=None), 10**6))
    judge, outbox = Aggregator(SETTINGS), Outbox(Journal(None, "test"))
    judge.know(found)
    ledger.ingest(packed(records), {(*name, found.manifest.digest): found}, NOW)
    outbox.add(ledger.seal())
    outbox.pack()
    judge.take("n", outbox.waiting)
    judge.judge(["n"], NOW)
    tally = Tally(clock=ledger.marks.clock, books=tuple((*name, book) for name, book in ledger.books.items()))
    judged = Judged({name: judge.verdicts(name)}, {"n": tally}, ("n",), {"n": judge.marks("n")})
    told = report(
        "n", tally, judged, SETTINGS, now=NOW + later_s, stale=False, lost_frames=0, sampling_ratio=1.0, cpu_s=0.0
    )
    assert told.document is not None
    return told.document.models[name[0]][name[1]]


RECORDS, _ = stream(2_000, spacing_s=120, versions=["1"])


def test_with_data_of_its_schema_it_is_ok() -> None:
    assert mismatches(profile(), manifest()) == ()
    found = said(Version(manifest(), profile()), RECORDS)
    assert (found.state, found.notes) == ("ok", profile().notes)


def test_without_data_it_says_no_data() -> None:
    assert said(Version(manifest(), profile()), []).state == "no_data"
    assert said(Version(manifest(), None), RECORDS).state == "no_data"


def test_what_is_old_is_stale() -> None:
    assert said(Version(manifest(), profile()), RECORDS, later_s=86_400).state == "stale"


def test_rows_that_got_an_error_keep_nothing_fresh() -> None:
    """A model that only fails: the last verdict is of what was before."""
    last = RECORDS[-1].event_times[0]
    times = [[last + 600.0 * k] for k in range(200)]
    failing = [
        msgspec.structs.replace(record, event_times=time, arrival_times=time, statuses=[500])
        for record, time in zip(RECORDS, times, strict=False)
    ]
    assert said(Version(manifest(), profile()), RECORDS + failing).state == "stale"


@pytest.mark.parametrize(
    ("reference", "note"),
    [
        (renamed(), "the version does not declare colour"),
        (other(x1=dtype("x1", "float64")), "x1 is float64 there, in the version float32"),
        (other(x1=dtype("x1", "text")), "x1 is text there, in the version float32"),
        (other(**{PREDICTION: dtype(PREDICTION, "float64")}), "_prediction is float64 there, in the version float32"),
    ],
)
def test_a_reference_of_another_schema_is_unfit_and_says_so(reference: Profile, note: str) -> None:
    found = said(Version(manifest(), reference), RECORDS)
    assert found.state == "unfit"
    assert any(said.startswith("the reference is of another schema") and note in said for said in found.notes)


def test_rows_whose_tensors_are_not_what_the_version_declares_are_unreadable() -> None:
    text = [
        msgspec.structs.replace(
            record, inputs={"x": Column.of("BYTES", np.full(record.inputs["x"].shape, b"a", object))}
        )
        for record in RECORDS[1_000:]
    ]
    found = said(Version(manifest(), profile()), RECORDS[:1_000] + text)
    assert found.checks is not None and found.state == "stale"
    assert found.checks.quality.checks[ROWS]["unreadable"].ratio == 1.0
