"""One frozen configuration tree; the only file that reads configuration files or the environment.

`load()` merges, weakest first: the defaults written here, a TOML file, and the environment
(``GAUGEWAY_<SECTION>__<KEY>``, ``GAUGEWAY_DATA_DIR``). Unknown keys are refused with their path and the nearest known
one.
"""

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta, field

from serving import wording
from serving.errors import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Tls(_Section, frozen=True):
    """PEM files of the data plane, read again when they change. Empty: plain HTTP."""

    certificate: str = ""  # followed by its chain
    key: str = ""  # not encrypted

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("`certificate` and `key` need each other")
        for name in ("certificate", "key"):
            if path := getattr(self, name):  # the workers' folder may be another one
                msgspec.structs.force_setattr(self, name, os.path.abspath(path))


class Gateway(_Section, frozen=True):
    """The data plane: where it listens, how much it accepts."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Positive = 1  # processes sharing the port
    deadline_s: Seconds = 30.0  # of a request that names none; a request may only lower it
    max_body_bytes: Positive = 64 * 2**20
    max_json_depth: Positive = 100
    max_queue_rows: Positive = 2**16  # waiting rows per version and worker; more is 503
    queue_target_s: Seconds = 0.5  # beyond the batches under way, what ordinary requests may have to wait
    client: Annotated[str, Meta(pattern=r"^(address|header:[A-Za-z0-9-]+)$")] = "address"  # who is one client
    max_inflight_requests: Positive = 4096  # per worker; more is 503
    retries: Annotated[int, Meta(ge=0, le=3)] = 1  # of a request whose replica died under it
    shared_memory_bytes: Annotated[int, Meta(ge=0)] = 2**28  # per worker, for large bodies; 0: they go through sockets
    strict_readiness: bool = False  # server ready only when every model is
    tls: Tls = field(default_factory=Tls)


class Admin(_Section, frozen=True):
    """The control plane's own listener."""

    host: str = "127.0.0.1"
    port: Port = 8090


class Metrics(_Section, frozen=True):
    """Where Prometheus scrapes."""

    host: str = "127.0.0.1"
    node_port: Port = 9410
    controller_port: Port = 9411


class Registry(_Section, frozen=True):
    """Metadata and desired state by SQL URL, artifacts by the URL of a folder or an object store.

    Empty: below `data_dir`.
    """

    database: str = ""
    artifacts: str = ""
    cache_bytes: Annotated[int, Meta(ge=0)] = 10 * 2**30  # of what an object store gave, per node; 0: none


class Monitors(_Section, frozen=True):
    """Slots, blocks and the alarm budget. `event_time = "request"` takes time from the request's header."""

    enabled: bool = True
    event_time: Literal["arrival", "request"] = "arrival"
    slot_s: Seconds = 60.0
    block_s: Seconds = 3600.0
    block_rows: Positive = 200
    lateness_s: Annotated[float, Meta(ge=0)] = 60.0  # a slot stays open this long after its end
    label_horizon_s: Seconds = 86400.0  # a label block is sealed this long after its end
    label_budget_rows: Positive = 5_000_000  # predictions that may wait for a label, on disk
    min_coverage: Fraction = 0.5  # labelled share below which a risk verdict is `no_data`
    tolerance: Fraction = 0.02  # total variation that is not called drift
    risk_tolerance: Fraction = 0.01  # rise of the mean loss that is not called harm
    false_pages_per_90_days: Annotated[float, Meta(gt=0, le=1e6)] = 1.0  # of all versions together, tickets included
    unit: Annotated[str, Meta(pattern=r"^(row|block|cluster:.+)$")] = "row"  # of which a block is made
    quiet_blocks: Positive = 10  # an alarm clears after as many blocks without one
    ring_bytes: Annotated[int, Meta(ge=2**16)] = 64 * 2**20  # per gateway worker
    poll_s: Seconds = 0.25
    gone_s: Seconds = 300.0  # a node that was silent for as long holds no verdict back any more
    allow_correlated_blocks: bool = False  # drift calls somebody also where blocks are shorter than it takes to forget
    learn_blocks: Annotated[int, Meta(ge=0)] = 0  # of live traffic: the reference of a version without one; 0: none
    min_group_rows: Positive = 100  # a segment with fewer rows is shown as too few


class RaySection(_Section, frozen=True):
    """The Ray cluster. No address: one is started on this machine and stopped with Gaugeway."""

    address: str | None = None
    cpus: Positive | None = None
    gpus: Annotated[int, Meta(ge=0)] | None = None
    health_check_period_s: Seconds = 1.0
    drain_s: Seconds = 20.0
    orphan_s: Seconds = 60.0  # how long a node's processes go on without their Ray node


Cpus = Annotated[float, Meta(gt=0)]
Gpus = Annotated[float, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=0)]
Provider = Literal["", "cpu", "cuda"]  # empty: cuda with a GPU, else cpu
AsMeasured = Annotated[int, Meta(ge=0)]  # 0: what was measured to be enough


class ChannelTls(_Section, frozen=True):
    """PEM files for mutual TLS between nodes, on each of them. Empty: the secret alone."""

    certificate: str = ""
    key: str = ""  # not encrypted
    ca: str = ""  # who signed the certificates of all nodes

    def __post_init__(self) -> None:
        if len({bool(path) for path in (self.certificate, self.key, self.ca)}) > 1:
            raise ValueError("`certificate`, `key` and `ca` need each other")


class Channel(_Section, frozen=True):
    """How gateways reach the replicas of other nodes."""

    host: str = ""  # where replicas listen; empty: at the node's address in Ray, if `ray.address` names a cluster
    secret: str = ""  # of the cluster; empty: made once, `cluster.secret` below `data_dir`
    tls: ChannelTls = field(default_factory=ChannelTls)


class Resources(_Section, frozen=True):
    cpu: Cpus = 0.25  # logical CPUs reserved for a replica
    gpu: Gpus = 0.0
    threads: Positive = 1  # intra-op threads of ONNX Runtime
    memory_bytes: Bytes = 0  # that tensors and weights may take, on the GPU where there is one; 0: no bound
    provider: Provider = ""

    @property
    def runs_on(self) -> str:
        return self.provider or ("cuda" if self.gpu else "cpu")

    def __post_init__(self) -> None:
        if self.provider == "cuda" and not self.gpu:
            raise ValueError("`provider` is cuda, so `gpu` must say how much of one; got 0")


class Replicas(_Section, frozen=True):
    min: Annotated[int, Meta(ge=0)] = 1
    max: Annotated[int, Meta(ge=0)] = 0  # 0: as many as min, at least 1
    target_busy_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.7
    catch_up_s: Seconds = 2.0  # in which work that waits should be done
    up_after_s: Annotated[float, Meta(ge=0)] = 0.5  # replicas are added once they were wanted for so long,
    down_after_s: Annotated[float, Meta(ge=0)] = 300.0  # and taken away once they were not
    sleep_after_s: Seconds = 300.0  # without a request, to zero if `min` is 0

    def __post_init__(self) -> None:
        if self.max == 0:
            msgspec.structs.force_setattr(self, "max", max(self.min, 1))
        if self.min > self.max:
            raise ValueError(f"`min` is {self.min}, above `max` {self.max}")


class Cache(_Section, frozen=True):
    """Answers of a version that are given again for the same input. 0 bytes: none are."""

    max_bytes: Annotated[int, Meta(ge=0)] = 0  # per gateway worker
    ttl_s: Annotated[float, Meta(ge=0)] = 0.0  # 0: for as long as there is room
    scope: Literal["client", "shared"] = "client"


class Capture(_Section, frozen=True):
    """What of a model's requests and predictions is written to this node's disk; see docs/capture.md."""

    enabled: bool = False
    features: tuple[str, ...] = ()  # declared features, or inputs: all their columns. Nothing else is written
    sample: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of the requests, by a hash of their id
    redact: dict[str, Annotated[str, Meta(pattern=r"^(drop|hash|truncate:[0-9]{1,4})$")]] = field(default_factory=dict)
    retention_days: Annotated[float, Meta(gt=0, le=36500)] = 30.0
    max_bytes: Annotated[int, Meta(ge=2**20)] = 10 * 2**30  # of a model on a node; the oldest go first

    def __post_init__(self) -> None:
        if self.features and not self.enabled:
            raise ValueError("`features` are named, but nothing is captured: set `enabled`")


class Pool(Replicas, frozen=True):
    """Replicas of a version that are alike: the keys of `Replicas` and, since msgspec has one base, of `Resources`."""

    name: Annotated[str, Meta(pattern=f"^({NAME.pattern})?$")] = ""  # empty: gpu with a GPU, else cpu
    cpu: Cpus = Resources().cpu
    gpu: Gpus = Resources().gpu
    threads: Positive = Resources().threads
    memory_bytes: Bytes = Resources().memory_bytes
    provider: Provider = Resources().provider
    max_batch_rows: AsMeasured = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            msgspec.structs.force_setattr(self, "name", "gpu" if self.gpu else "cpu")
        _ = self.resources  # which are checked there

    @property
    def resources(self) -> Resources:
        return Resources(**{name: getattr(self, name) for name in Resources.__struct_fields__})


class Version(_Section, frozen=True):
    """How one version is served; what it is lies in the registry. Without `pools` it has one."""

    resources: Resources = field(default_factory=Resources)
    replicas: Replicas = field(default_factory=Replicas)
    pools: tuple[Pool, ...] = ()
    max_batch_rows: AsMeasured = 0
    cache: Cache = field(default_factory=Cache)

    def __post_init__(self) -> None:
        if self.pools and (self.resources != Resources() or self.replicas != Replicas()):
            raise ValueError("`pools` say resources and replicas: `resources` and `replicas` cannot stand beside them")
        names = [pool.name for pool in self.pools]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two pools are called {doubled[0]!r}: give each a `name`")

    @property
    def by_pool(self) -> dict[str, Pool]:
        """Every pool by its name; the bound of its batches is the version's where it has none of its own."""
        asdict = msgspec.structs.asdict
        pools = self.pools or (Pool(**asdict(self.resources), **asdict(self.replicas)),)
        most = self.max_batch_rows
        return {p.name: msgspec.structs.replace(p, max_batch_rows=p.max_batch_rows or most) for p in pools}


class Shadow(_Section, frozen=True):
    version: str
    fraction: Fraction = 1.0


class Model(_Section, frozen=True):
    """Who gets which share of a model's traffic. No weights: the newest version gets all."""

    sticky: Annotated[str, Meta(pattern=r"^((header|cookie|parameter):[A-Za-z0-9_.-]+)?$")] = ""
    weights: dict[str, Fraction] = field(default_factory=dict)
    shadows: tuple[Shadow, ...] = ()
    versions: dict[str, Version] = field(default_factory=dict)
    capture: Capture = field(default_factory=Capture)

    def version(self, version: str) -> Version:
        return self.versions.get(version) or Version()


class Config(_Section, frozen=True):
    """The whole tree. `data_dir` holds what must last, `run_dir` sockets and rings of this node."""

    data_dir: str = ""
    gateway: Gateway = field(default_factory=Gateway)
    admin: Admin = field(default_factory=Admin)
    metrics: Metrics = field(default_factory=Metrics)
    registry: Registry = field(default_factory=Registry)
    monitors: Monitors = field(default_factory=Monitors)
    ray: RaySection = field(default_factory=RaySection)
    channel: Channel = field(default_factory=Channel)
    berth: Annotated[int, Meta(ge=0)] = 0  # which of the machine's Ray nodes this is; each is told by `serving.berth`
    models: dict[str, Model] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return Path(self.data_dir or platformdirs.user_data_dir("gaugeway"))

    @property
    def run_dir(self) -> Path:
        """Rings, metric pages, table: what outlives a process but not the data folder. Each node has its own."""
        return self.data / (f"run-{self.berth}" if self.berth else "run")

    @property
    def logs(self) -> Path:
        return self.data / "logs" / (f"node-{self.berth}" if self.berth else "")

    @property
    def captures(self) -> Path:
        """The capture log of this node."""
        return self.data / (f"captures-{self.berth}" if self.berth else "captures")

    @property
    def socket_dir(self) -> Path:
        """Short on purpose: a unix socket's path is limited to 108 bytes."""
        key = sha256(str(self.data.resolve()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"gaugeway-{os.getuid()}-{key}{f'-{self.berth}' if self.berth else ''}"

    @property
    def database_url(self) -> str:
        return self.registry.database or f"sqlite:///{self.data.resolve() / 'registry.db'}"

    @property
    def artifacts_url(self) -> str:
        return self.registry.artifacts or (self.data.resolve() / "artifacts").as_uri()


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path`, else ``gaugeway.toml`` in the working folder, else the defaults; then the environment.

    Raises ConfigError for a file that is missing, not TOML, or says something unknown or out of range.

    >>> load(environ={"GAUGEWAY_GATEWAY__PORT": "9000"}).gateway.port
    9000
    """
    path = path or (Path("gaugeway.toml") if Path("gaugeway.toml").exists() else None)
    tree = _read(path) if path else {}
    overrides = _override(tree, os.environ if environ is None else environ)
    return parse(tree, where=" and ".join([str(path)] * bool(path) + overrides) or "the defaults")


def parse(tree: dict[str, Any], where: str = "configuration") -> Config:
    """Turn a plain tree into a checked `Config`."""
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {wording.explained(str(error), Config, tree)}") from None
    _check(config, where)
    return config


def dump(config: Config) -> str:
    """The tree as JSON, for a child process: `restore(dump(c)) == c`."""
    return msgspec.json.encode(config).decode()


def restore(text: str | bytes) -> Config:
    return msgspec.json.decode(text, type=Config)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _override(tree: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Put the environment's values into `tree`; the names of the variables that were used."""
    used = []
    for name in sorted(environ):
        section, _, key = name.removeprefix("GAUGEWAY_").lower().partition("__")
        if name == "GAUGEWAY_DATA_DIR":
            tree[section] = environ[name]
        elif name.startswith("GAUGEWAY_") and key and isinstance(tree.setdefault(section, {}), dict):
            tree[section][key] = _value(environ[name])
        else:
            continue
        used.append(name)
    return used


def _value(text: str) -> Any:
    """A TOML value where it reads as one, else the text itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _check(config: Config, where: str) -> None:
    times = config.monitors
    if times.block_s < times.slot_s:
        raise ConfigError(f"{where}: block_s is {times.block_s:g}, below slot_s {times.slot_s:g} - at `$.monitors`")
    for name, model in config.models.items():
        if not NAME.fullmatch(name):
            raise ConfigError(f"{where}: model name {name!r} must match {NAME.pattern} - at `$.models.{name}`")
        total = sum(model.weights.values())
        if model.weights and abs(total - 1) > 1e-6:
            raise ConfigError(f"{where}: weights must add up to 1, got {total:g} - at `$.models.{name}.weights`")
