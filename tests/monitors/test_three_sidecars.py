"""Three sidecars as processes: their verdicts are those of one, to the bit, whichever of them is killed."""

import random
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from monitors.labels import Label
from monitors.peers import HEADER, prove
from serving import record
from serving.record import Record
from tests.monitors.test_sidecar import DAY, Process, append, observe, wait
from tests.monitors.traffic import FEATURES, START, stream
from tests.monitors.traffic import record as one_record
from tests.postgres import Server


class Trio:
    """Three nodes over one registry."""

    def __init__(self, folder: Path, database: str = "") -> None:
        folder.mkdir()
        self.all = [Process(folder / name, folder, database) for name in "abc"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.start, self.all))

    def kill(self, process: Process) -> None:
        assert process.end(signal.SIGKILL) == -signal.SIGKILL

    def judge(self, among: Sequence[Process]) -> Process:
        """Who of them exports verdicts."""

        def judges(process: Process) -> bool:
            return "gaugeway_monitor_state{" in process.get("/metrics").text

        wait(lambda: sum(map(judges, among)) == 1)
        return next(process for process in among if judges(process))

    def label(self, labels: Sequence[Label], rng: random.Random) -> None:
        """At whatever node answers."""
        body = msgspec.json.encode([label._asdict() for label in labels])
        while True:
            try:
                if rng.choice(self.all).post(body)[0] == 200:
                    return
            except (OSError, HTTPException):
                pass  # it was killed; another one

    def end(self) -> None:
        for process in self.all:
            process.end(signal.SIGKILL)


def versions(process: Process) -> list[dict[str, Any]]:
    return [version for model in process.verdicts()["models"].values() for version in model.values()]


def watch(trio: Trio, records: list[Record], labels: list[Label], kill: Callable[[], None]) -> dict[str, Any]:
    """What all three say in the end, when records and labels come to any of them while some are killed."""
    rng, rings = random.Random(3), [process.ring() for process in trio.all]
    shuffled = [rings[rng.randrange(3)] for _ in records]

    def write() -> None:
        for ring, found in zip(shuffled, records, strict=True):
            append([ring], [found], 0.001)

    def label() -> None:
        for k in range(0, len(labels), 50):
            trio.label(labels[k : k + 50], rng)

    threads = [threading.Thread(target=write), threading.Thread(target=label)]
    for thread in threads:
        thread.start()
    kill()
    for thread in threads:
        thread.join()
    first = trio.all[0]
    wait(lambda: first.done(records) and sum(v["labels"]["joined"] for v in versions(first)) == len(labels))
    last = one_record(["last"], np.zeros((1, FEATURES), np.float32), [START + 90 * DAY])
    rings[1].append(record.encode(last), last.rows)
    wait(lambda: first.done([*records, last]) and versions(first)[0]["risk"]["blocks"] > 5)
    found = first.verdicts()
    assert [process.verdicts() for process in trio.all] == [found] * 3
    return found


def test_verdicts_of_three_equal_those_of_one_whoever_is_killed(tmp_path: Path, postgres: Server) -> None:
    records, labels = stream(1500, spacing_s=180, shift=1.0)
    straight, _ = observe(tmp_path / "straight", 0, records, labels)
    trio = Trio(tmp_path / "trio", postgres.database("trio"))

    def kill() -> None:
        judge = trio.judge(trio.all)
        others = [process for process in trio.all if process is not judge]
        trio.kill(others[0])
        others[0].start()
        trio.kill(judge)
        assert trio.judge(others) is not judge  # after its lease
        judge.start()

    try:
        assert watch(trio, records, labels, kill) == straight
    finally:
        trio.end()


def test_who_does_not_know_the_secret_may_not_speak_to_a_sidecar(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.start()
    try:
        address = process.peers_address()
        for path in ("/slots", "/labels/held", "/labels/join", "/verdicts"):
            wrong = {HEADER: prove(b"another secret", path, b"", START)}
            unproved: tuple[Any, ...] = ({}, wrong, {HEADER: "1:2"}, {HEADER: b"\xe9"})
            assert [httpx.post(f"http://{address}{path}", headers=h).status_code for h in unproved] == [403] * 4
            assert httpx.get(f"http://{address}{path}").status_code == 405
        assert httpx.post(f"http://{address}/labels", content=b"[]").status_code == 404
        for body in (b"", b"\xff", b"\x81\xa4node\x01"):  # of one who knows it, and writes nonsense
            assert process.as_peer("/slots", body).status_code == 400
    finally:
        process.end(signal.SIGKILL)


def test_a_sidecar_that_starts_without_the_database_counts_and_is_judged_later(
    tmp_path: Path, postgres: Server
) -> None:
    records, _ = stream(600, spacing_s=120)
    process = Process(tmp_path, database=postgres.database("without"))
    process.start()
    try:
        ring = process.ring()
        append([ring], records[:300])
        wait(lambda: process.done(records[:300]))
        process.end(signal.SIGKILL)
        postgres.stop()
        process.start()
        assert process.get("/verdicts").status_code == 503
        append([ring], records[300:])
        wait(lambda: process.counted() == sum(found.rows for found in records))
    finally:
        postgres.start()
    try:
        wait(lambda: process.get("/verdicts").status_code == 200 and process.done(records))
        assert versions(process)[0]["drift"]["_all"]["blocks"] > 1
    finally:
        process.end(signal.SIGKILL)
