"""Before the demo serves: train or find the two versions, configure the gateway, publish into a new registry."""

import json
import shutil
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from serving.children import sweep
from serving.config import Admin, Config, Gateway, Metrics, Model, Monitors
from serving.declaration import Declaration
from serving.demo import flights
from serving.demo.traffic import Traffic
from serving.errors import GaugewayError
from serving.publishing import publish
from serving.repository import Repository

if TYPE_CHECKING:
    from serving.demo.training import Trained

MODEL = "flights"
WEIGHTS = {"1": 0.8, "2": 0.2}
KEY_HEADER = "x-user-id"
INPUT, OUTPUT, COLUMN = "features", "probabilities", 1
DAY_S = 86400.0
PORTS = (Gateway().port, Admin().port, Metrics().node_port)  # what is wanted


def home(data_dir: Path | None) -> Path:
    """The folder of the demo: `training/` is kept between runs, `gateway/` begins anew with each."""
    return (data_dir or Path(platformdirs.user_data_dir("gaugeway")) / "demo").resolve()


def train(traffic: Traffic, folder: Path, console: Console) -> "list[Trained]":
    """Both versions, from an earlier run where `folder` has them. Raises GaugewayError without the demo's extra."""
    try:
        training = import_module("serving.demo.training")  # here, since its libraries are an extra
    except ImportError as error:
        raise GaugewayError(f"the demo needs more: pip install 'gaugeway[demo]' ({error})") from None
    place = folder / "training" / training.recipe()
    columns = TextColumn("training version {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("trees")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        trained = []
        for version in training.TRAINED_UNTIL:
            on_tree = _advance(bars, version, training.TREES)
            found = training.kept(place, version)
            trained.append(found or training.train(traffic, version, place, flights.source().digest, on_tree))
    return trained


def configure(data: Path) -> Config:
    """Event time from the requests, blocks of a day, the default ports where they are free."""
    gateway, admin, metrics = Gateway(), Admin(), Metrics()
    return Config(
        data_dir=str(data),
        gateway=Gateway(port=_free(gateway.host, gateway.port)),
        admin=Admin(port=_free(admin.host, admin.port)),
        metrics=Metrics(
            node_port=_free(metrics.host, metrics.node_port),
            controller_port=_free(metrics.host, metrics.controller_port),
        ),
        monitors=Monitors(
            event_time="request",
            slot_s=3600.0,
            lateness_s=3600.0,
            block_s=DAY_S,
            block_rows=100,  # a fifth of a day's flights is near the default of 200
            label_horizon_s=DAY_S / 2,
        ),
        models={MODEL: Model(sticky=f"header:{KEY_HEADER}", weights=WEIGHTS)},
    )


def fill(config: Config, trained: "Sequence[Trained]", console: Console) -> None:
    """Publish `trained` into an empty data folder, and say what they are."""
    sweep(config.run_dir / "pids")  # processes that a killed run left behind
    shutil.rmtree(config.data, ignore_errors=True)
    config.data.mkdir(parents=True)
    repository = Repository.of(config)
    for version in trained:
        with console.status(f"validating and publishing version {version.version}"):
            notes = _publish(repository, version)
        told = version.lineage
        quality = f"AUC {told['held_out_auc']}, Brier score {told['held_out_brier']} on the days held out"
        console.print(f"version {version.version}: {told['training_data']}; {quality}", highlight=False, soft_wrap=True)
        if notes:
            path = config.data / f"notes-{version.version}.txt"
            path.write_text("\n".join(notes) + "\n")
            console.print(f"  what is judged bluntly or not at all, and why: {path}", highlight=False, soft_wrap=True)


def _publish(repository: Repository, version: "Trained") -> tuple[str, ...]:
    """Returns what will not be monitored, and why."""
    kinds = {name: "categorical" if name in flights.CATEGORICAL else "numeric" for name in flights.FEATURES}
    declared = Declaration(
        version=version.version, task="classification", prediction=f"{OUTPUT}:{COLUMN}",
        features=[*map(":".join, kinds.items())], reference=version.reference, label="late", time="departs",
        block_s=DAY_S, lineage=version.lineage,
    )  # fmt: skip
    return publish(repository, MODEL, version.model, declared).notes


def write_toml(config: Config, path: Path) -> None:
    """What another terminal needs: ``gaugeway status --config PATH``."""
    lines = [
        f"data_dir = {json.dumps(config.data_dir)}",
        f"[gateway]\nport = {config.gateway.port}",
        f"[admin]\nport = {config.admin.port}",
        f"[metrics]\nnode_port = {config.metrics.node_port}\ncontroller_port = {config.metrics.controller_port}",
    ]
    path.write_text("\n".join(lines) + "\n")


def _advance(bars: Progress, version: str, trees: int) -> Callable[[], None]:
    task = bars.add_task(version, total=trees)
    return lambda: bars.advance(task)


def _free(host: str, port: int) -> int:
    """`port`, or 0 for any free one where it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
    return port
