"""How many labels a second: predictions wait, then one NDJSON body of labels. ``python -m loadtests.labels``.

The gateway's part and the sidecar's in one process, without the sockets between them: decode lines, encode for the
sidecar, parse there, join, commit; in batches of 4,096, as over HTTP. Processor seconds, with and without segments.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from loadtests.monitoring import Spent, batches, manifest_of, profile_of_rows, written
from monitors.listener import parse
from monitors.station import Station
from serving.codec import Batch, label_batches
from serving.config import Monitors
from serving.manifest import Manifest, Segment

RATE = 4000.0  # rows a second of the predictions' own time
PER_RECORD = 64
SEGMENTS = (Segment("f0", edges=tuple(k / 10 for k in range(-20, 21))), Segment("f1", edges=(-1.0, 0.0, 1.0)))
PARTS = ("wait", "decode", "encode", "parse", "join", "commit")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python -m loadtests.labels --labels 100000")
    parser.add_argument("--labels", type=int, default=1_000_000)
    arguments = parser.parse_args(argv)
    profile, n = profile_of_rows(), arguments.labels // PER_RECORD * PER_RECORD
    print(f"CPU seconds for {n:,} predictions that wait and then get their labels")
    print("| segments | " + " | ".join(PARTS) + " | labels/s of a core |\n|" + "---|" * (len(PARTS) + 2))
    for name, segments in (("none", ()), ("45 of two features", SEGMENTS)):
        manifest = msgspec.structs.replace(manifest_of(profile), segments=segments)
        spent = _run(manifest, profile.encode(), n)
        rate = n / (sum(spent.values()) - spent["wait"])
        print(f"| {name} | " + " | ".join(f"{spent[part]:.2f}" for part in PARTS) + f" | {rate:,.0f} |")


def _run(manifest: Manifest, profile: bytes, n: int) -> dict[str, float]:
    settings, spent = Monitors(label_budget_rows=4 * n), dict.fromkeys(PARTS, 0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        station = Station(settings, "n", folder, folder / "monitors.db", lambda *_: manifest, lambda *_: profile)
        for now in written(folder, manifest, n, PER_RECORD, RATE, Spent()):
            start = time.process_time()
            while station.poll(now):
                pass
            spent["wait"] += time.process_time() - start
        for batch in _timed(label_batches(_body(n, now), "application/x-ndjson", None), spent):
            _label(station, batch, now, spent)
        joined = sum(book.joined for book in station.ledger.books.values())
        assert joined == n, f"{joined} of {n} labels were joined"
        station.close()
    return spent


def _label(station: Station, batch: Batch, now: float, spent: dict[str, float]) -> None:
    marks = [time.process_time()]
    rows = [{"model": "m", "id": one.id, "row": one.row, "label": one.label, "time": one.time} for one in batch.labels]
    body = msgspec.json.encode(rows)
    marks.append(time.process_time())
    parsed = parse(body)
    marks.append(time.process_time())
    labels = [label for _, label in parsed.labels]
    assert not any(station.ledger.refusals(labels))
    station.label(labels, now)
    marks.append(time.process_time())
    station.commit(at_once=True)
    marks.append(time.process_time())
    for part, start, end in zip(PARTS[2:], marks, marks[1:], strict=False):
        spent[part] += end - start


def _timed(found: Iterable[Batch], spent: dict[str, float]) -> Iterable[Batch]:
    start = time.process_time()
    for batch in found:
        spent["decode"] += time.process_time() - start
        yield batch
        start = time.process_time()


def _body(n: int, now: float) -> bytes:
    """A label of each prediction, in another order."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    ids = [id for batch in batches(n // PER_RECORD, PER_RECORD, RATE) for id in batch.ids]
    lines = (json.dumps({"id": id, "label": k % 2, "time": at}) for k, id in enumerate(sorted(ids)))
    return "\n".join(lines).encode()


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # as in the sidecar
    main()
