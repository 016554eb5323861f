"""``gaugeway demo``: train two versions, serve them 80/20, replay the flights of 2013, say what happened.

What it found goes to standard output, how far it is to standard error.
"""

import asyncio
import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import aiohttp
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from serving.config import Config
from serving.demo import flights, setup
from serving.demo.replay import Replay, Target
from serving.demo.summary import sentences, summarise
from serving.demo.table import Board, line, table
from serving.demo.traffic import Traffic, rfc3339
from serving.demo.verdicts import fetch
from serving.errors import BadRequest, Conflict
from serving.protocol import Array
from serving.up import Running, start

BEGIN = "2013-04-01"  # the first day of which neither version knows anything
MOST_DAYS = 275  # to the end of the data
LOOK_S = 0.5  # between two looks at the verdicts
LINE_S = 5.0  # between two lines in a log
CATCH_UP_S = 60.0  # how long the monitors may take over the last rows


def run(*, days: int = 60, speed: float | None = None, exit: bool = False, summary: Path | None = None,
        data_dir: Path | None = None) -> int:  # fmt: skip
    """Run the demo: 0 when nothing failed and every label was joined, 1 otherwise, 130 after Ctrl-C in the replay.

    `speed` is event seconds a second, None as fast as it goes. Without `exit` it serves on until Ctrl-C or
    `gaugeway down`. Raises GaugewayError for what keeps it from starting.
    """
    _check(days, speed)
    folder, console = setup.home(data_dir), Console(stderr=True)
    with _alone(folder), _interruptible():
        every = flights.load(flights.source(), folder / "flights.parquet")
        begin = flights.utc(BEGIN)
        traffic = every.between(begin, begin + days * setup.DAY_S)
        setup.fill(setup.configure(folder / "gateway"), setup.train(every, folder, console), console)
        config = setup.configure(folder / "gateway")  # again: another program may have taken a port meanwhile
        with _serving(config, console) as running:
            setup.write_toml(running.config, folder / "gaugeway.toml")
            return _replay_and_serve(traffic, running, folder, console, speed, summary, exit)


def _replay_and_serve(traffic: Traffic, running: Running, folder: Path, console: Console, speed: float | None,
                      summary: Path | None, exit: bool) -> int:  # fmt: skip
    try:
        board = asyncio.run(_replayed(traffic, running, speed, console))
    except KeyboardInterrupt:
        console.print("stopped before the end of the replay")
        return 130
    found = summarise(traffic, board)
    _keep(traffic, board, folder / "answers.parquet")
    if summary:
        summary.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    print("\n".join(sentences(found, setup.WEIGHTS)), flush=True)
    if not exit:
        print(f"\nStill serving; Ctrl-C stops. Ask it yourself, in another terminal:\n\n{curl(traffic, running)}\n\n"
              f"gaugeway status --config {folder / 'gaugeway.toml'}", flush=True)  # fmt: skip
        _until_stopped(running)
    return 0 if found.sound else 1


async def _replayed(traffic: Traffic, running: Running, speed: float | None, console: Console) -> Board:
    """Replay while showing; then look until the monitors have seen all of it, at most for CATCH_UP_S."""
    target = Target(running.gateway_url, setup.MODEL, setup.INPUT, setup.OUTPUT, setup.COLUMN, setup.KEY_HEADER)
    replay = Replay(traffic, target, speed=speed)
    board = Board(setup.MODEL, replay.progress, setup.WEIGHTS)
    run = asyncio.create_task(replay.run())
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            with _shown(board, console) as show:
                while not run.done():
                    await asyncio.wait([run], timeout=LOOK_S)
                    board.look(await fetch(session, running.verdicts_url), time.monotonic())
                    show()
                run.result()
                give_up = time.monotonic() + CATCH_UP_S
                while not board.caught_up and time.monotonic() < give_up:
                    await asyncio.sleep(0.1)
                    board.look(await fetch(session, running.verdicts_url), time.monotonic())
                show()
    finally:
        run.cancel()
    return board


def curl(traffic: Traffic, running: Running) -> str:
    """A command that asks for the last flight without a missing value, as if it left when the replay ended."""
    row = int(np.flatnonzero(np.isfinite(traffic.rows).all(1))[-1])
    tensor = {
        "name": setup.INPUT,
        "datatype": "FP32",
        "shape": [1, traffic.rows.shape[1]],
        "data": [float(str(value)) for value in traffic.rows[row]],  # the shortest decimal of a float32
    }
    return (
        f"curl -s -i {running.gateway_url}/v2/models/{setup.MODEL}/infer \\\n"
        f"  -H '{setup.KEY_HEADER}: {traffic.keys[row]}' \\\n"
        f"  -H 'x-gaugeway-event-time: {rfc3339(traffic.times[-1])}' \\\n"
        f"  -d '{msgspec.json.encode({'inputs': [tensor]}).decode()}'"
    )


@contextmanager
def _shown(board: Board, console: Console) -> Iterator[Callable[[], None]]:
    """A function that shows the board: in place in a terminal, else a line now and then."""
    if not console.is_terminal:
        yield _Lines(board, console).show
        return
    bar = Progress(BarColumn(bar_width=None), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    task = bar.add_task("", total=board.progress.total)
    with Live(console=console, auto_refresh=False) as live:

        def show() -> None:
            bar.update(task, completed=board.progress.answered + board.progress.failed)
            live.update(Group(bar, table(board)), refresh=True)

        yield show


class _Lines:
    """A line every LINE_S."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board, self._console = board, console
        self._next = time.monotonic() + LINE_S

    def show(self) -> None:
        if time.monotonic() >= self._next:
            self._next += LINE_S
            self._console.print(line(self._board), highlight=False, soft_wrap=True)


@contextmanager
def _serving(config: Config, console: Console) -> Iterator[Running]:
    """The gateway, stopped whatever happens inside; a second Ctrl-C does not stop the stopping."""
    with console.status("starting") as status:
        running = start(config, lambda text: status.update(text))
    try:
        _interrupt_on_signals()  # Ray sets its own
        for wanted, (what, url, port) in zip(setup.PORTS, _listening(running), strict=True):
            instead = "" if port == wanted else f" (port {wanted} is in use)"
            console.print(f"{what}: {url}{instead}", highlight=False)
        yield running
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with console.status("stopping"):
            running.stop()


def _listening(running: Running) -> list[tuple[str, str, int]]:
    config = running.config
    return [
        ("gateway", running.gateway_url, config.gateway.port),
        ("admin", running.admin_url, config.admin.port),
        ("metrics", running.metrics_url, config.metrics.node_port),
    ]


def _until_stopped(running: Running) -> None:
    try:
        while not running.stop_asked():
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return


def _keep(traffic: Traffic, board: Board, path: Path) -> None:
    """What each request was answered, beside its label, for whoever wants to check."""
    progress = board.progress
    columns: dict[str, list[str] | Array] = {
        "id": traffic.ids,
        "key": traffic.keys,
        "version": progress.versions,
        "prediction": progress.predictions,
        "latency_s": progress.latency_s,
        "label": traffic.labels,
    }
    pq.write_table(pa.table(columns), path)


def _check(days: int, speed: float | None) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise BadRequest(f"--days must be 1 to {MOST_DAYS} (the data ends with 2013), got {days}")
    if speed is not None and not 0 < speed < float("inf"):
        raise BadRequest(f"--speed is event seconds a second, above 0, got {speed:g}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One demo at a time in a folder. Raises Conflict."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "demo.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another demo runs in {folder}; stop it, or choose another --data-dir") from None
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does; what was before is restored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _interrupt_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_on_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
