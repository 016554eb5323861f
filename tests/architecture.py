"""Layers and doors of the packages, as tables; a new file or library is added here by whoever adds it.

A file imports only from layers above its own in `LAYERS`. A folder of `FOLDERS` is one unit there; within it files
may import each other, without a cycle. Imports stand at the top of a file, but for `LAZY`.
"""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("serving", "monitors", "serving.errors", "serving.wording"),
    ("serving.protocol", "serving.config", "serving.head", "serving.deadlines", "serving.eagerness", "serving.limits"),
    # pure: no socket, no clock
    (
        "serving.autoscaling",
        "serving.cache",
        "serving.locality",
        "serving.pace",
        "serving.reloading",
        "serving.retrying",
        "serving.sleep",
        "serving.speed",
        "serving.splitmix",
        "serving.suspects",
        "serving.waiting",
    ),
    ("serving.admission", "serving.autoscaler", "serving.meter"),
    (
        "serving.chunked",
        "serving.codec",
        "serving.frames",
        "serving.manifest",
        "serving.metrics",
        "serving.packed",
        "serving.ring",
    ),
    ("serving.excerpt", "serving.record", "serving.upload"),
    ("serving.routing",),
    ("serving.applying", "serving.planning"),
    ("serving.simulation", "serving.sleepers"),
    # what a version is, where it is kept, how its bytes run
    (
        "serving.agreement",
        "serving.artifacts",
        "serving.migrations",
        "serving.runtime",
        "serving.sources",
        "serving.validation",
    ),
    ("serving.database", "serving.probe", "serving.rows"),
    ("serving.repository",),
    # evidence: reference -> counts -> verdicts
    (
        "monitors.alarm",
        "monitors.block",
        "monitors.bottom_k",
        "monitors.index",
        "monitors.journal",
        "monitors.keys",
        "monitors.loss",
        "monitors.orders",
        "monitors.truths",
    ),
    ("monitors.bundle", "monitors.pending", "monitors.source"),
    ("monitors.labels",),
    ("monitors.sampling",),
    ("monitors.strata",),
    ("monitors.baseline", "monitors.cell_losses", "monitors.marginal"),
    ("monitors.fingerprints",),
    ("monitors.memo", "monitors.repeats", "monitors.whole_rows"),
    ("monitors.binning", "monitors.profile"),
    ("monitors.adoption", "monitors.clusters", "monitors.tally"),
    ("monitors.reference",),
    ("monitors.drift", "monitors.features", "monitors.slot"),
    ("monitors.budget", "monitors.capture", "monitors.explain", "monitors.panel"),
    ("monitors.calibration", "monitors.quality", "monitors.rebase", "monitors.schema", "monitors.selftest"),
    ("monitors.learning", "monitors.metrics", "monitors.segments", "monitors.times"),
    ("monitors.tables",),
    ("monitors.book", "monitors.open_slots", "monitors.promise", "monitors.risk"),
    ("monitors.counting", "monitors.coverage"),
    ("monitors.checkup",),
    ("monitors.ledger", "monitors.monitor"),
    ("monitors.case", "monitors.parcel"),
    ("monitors.aggregator", "monitors.archive", "monitors.catalogue"),
    ("monitors.court",),
    ("monitors.fairness",),
    ("monitors.scorecard",),
    ("monitors.backtest", "monitors.report"),
    ("monitors.exporter", "monitors.inquiry", "monitors.questions", "monitors.station"),
    # between the sidecars of the nodes
    ("monitors.exchange", "monitors.peers", "monitors.post"),
    ("monitors.inlet",),
    ("monitors.listener",),
    ("serving.backtesting", "serving.declaration", "serving.profiling", "serving.segmenting"),
    ("serving.publishing",),
    ("serving.tls",),
    # how bytes reach a replica
    ("serving.arena", "serving.attempt", "serving.trust"),
    ("serving.references",),
    ("serving.channel", "serving.discovery", "serving.handover", "serving.labelling", "serving.listeners"),
    ("serving.connection", "serving.pools", "serving.sending"),
    ("serving.batching", "serving.engine", "serving.http", "serving.children"),
    ("serving.berth", "serving.fleet", "serving.recorder"),
    ("monitors.sidecar",),
    ("serving.recall", "serving.parts"),
    ("serving.dataplane",),
    ("serving.inference", "serving.links"),
    ("serving.gateway", "serving.server", "serving.admin", "serving.waking"),
    # processes and what starts them
    ("serving.replica", "serving.worker", "serving.node"),
    ("serving.nodes",),
    ("serving.controller",),
    ("serving.cluster",),
    ("serving.client", "serving.daemon", "serving.inquiring", "serving.health", "serving.up"),
    # the demo and the command line
    ("serving.demo", "serving.doctor", "serving.rebasing"),
    ("serving.commands",),
    ("serving.cli",),
    # what Grafana and Prometheus read
    ("dashboards", "dashboards.compiling"),
    ("dashboards.__main__",),
)

FOLDERS = (
    "monitors.capture",
    "serving.codec",
    "serving.commands",
    "serving.demo",
    "serving.doctor",
    "serving.migrations",
    "serving.simulation",
    "monitors.backtest",
    "monitors.drift",
    "monitors.explain",
    "monitors.metrics",
)

# What the sidecar's package may know of the serving side.
MONITORS_MAY_IMPORT = (
    "serving.errors", "serving.config", "serving.protocol", "serving.manifest", "serving.packed", "serving.record",
    "serving.ring", "serving.splitmix",
)  # fmt: skip

# Beyond that, a file and what it needs.
MONITORS_ALSO_IMPORT: tuple[tuple[str, str], ...] = (
    ("monitors.archive", "serving.database"),
    ("monitors.sidecar", "serving.berth"),
    ("monitors.sidecar", "serving.database"),
    ("monitors.sidecar", "serving.repository"),
    ("monitors.sidecar", "serving.metrics"),
)

# Where a library may be imported; None: anywhere.
DOORS: dict[str, tuple[str, ...] | None] = {
    "msgspec": None,
    "numpy": None,
    "_gojsonnet": ("dashboards.compiling",),
    "aiohttp": (
        "monitors.inlet",
        "monitors.listener",
        "serving.admin",
        "serving.demo",
        "serving.labelling",
    ),
    "cryptography": ("serving.doctor",),
    "alembic": ("serving.database", "serving.migrations"),
    "obstore": ("serving.artifacts",),
    "google": ("serving.probe",),  # protobuf, beside onnx
    "lightgbm": ("serving.demo",),
    "matplotlib": ("monitors.explain", "serving.simulation"),
    "onnx": ("serving.probe",),
    "onnxmltools": ("serving.demo",),
    "onnxruntime": ("serving.runtime",),
    "packaging": ("serving.doctor",),
    "orjson": ("serving.codec",),
    "platformdirs": ("serving.config", "serving.demo"),
    "prometheus_client": ("monitors.exporter", "serving.metrics"),
    "pyarrow": ("monitors.capture", "serving.demo", "serving.rows", "serving.sources"),
    "ray": (
        "serving.cluster",
        "serving.controller",
        "serving.node",
        "serving.nodes",
        "serving.replica",
        "serving.waking",
    ),
    "rich": ("serving.cli", "serving.commands", "serving.demo"),
    "scipy": (
        "monitors.drift",
        "monitors.explain",
        "monitors.loss",
        "monitors.metrics",
        "monitors.selftest",
        "serving.demo",
    ),
    "sqlalchemy": ("monitors.archive", "serving.database", "serving.migrations", "serving.repository"),
    "typer": ("serving.cli", "serving.commands"),
    "uvloop": ("serving.replica", "serving.worker"),
}

# Imports inside a function, with the reason.
LAZY: dict[tuple[str, str], str] = {
    ("monitors.capture.capturing", "monitors.capture.tap"): "arrow takes memory, and few models are captured",
    ("serving.commands.capture", "monitors.capture.erasure"): "arrow, for three commands alone",
    ("serving.commands.capture", "monitors.capture.export"): "as erasure",
    ("serving.commands.capture", "serving.repository"): "SQL, for one command alone",
    ("monitors.explain.points", "scipy.interpolate"): "takes time and memory of every sidecar, for diagnoses alone",
    ("serving.artifacts", "obstore"): "an extra, and a tenth of a second, for object stores alone",
    ("serving.artifacts", "obstore.exceptions"): "as obstore",
    ("serving.artifacts", "obstore.store"): "as obstore",
    ("serving.up", "serving.cluster"): "parts of Ray's environment are read when it is imported",
    ("serving.commands.demo", "serving.demo.run"): "needs the extra `demo`",
    ("serving.commands.simulate", "serving.simulation.plot"): "needs the extra `plots`",
    ("serving.commands.backtest", "monitors.backtest.page"): "arrow and scipy, for this command alone",
    ("serving.commands.backtest", "serving.backtesting"): "as the page",
    ("serving.commands.doctor", "serving.doctor.examination"): "SQL, for this command alone",
    ("serving.commands.life", "serving.up"): "SQL, for this command alone",
    ("serving.commands.registry", "serving.publishing"): "SQL and arrow, for this command alone",
    ("serving.commands.registry", "serving.repository"): "SQL, for two commands alone",
    ("serving.client", "serving.repository"): "SQL, only when no gateway runs",
    ("serving.inquiring", "serving.repository"): "SQL, for what is written alone",
    ("serving.commands.monitor", "monitors.explain.explanation"): "statistics, for a picture alone",
    ("serving.commands.monitor", "monitors.explain.plot"): "needs the extra `plots`",
    ("serving.commands.monitor", "serving.rebasing"): "SQL and arrow, for one command alone",
    ("serving.node", "serving.waking"): "Serve takes memory, and few nodes have pools that sleep",
}

# `except Exception` and `except BaseException` without a bare `raise` at the end, with the reason.
EDGES: dict[str, str] = {
    "monitors.capture.capturing": "whatever cannot be captured waits in the ring, and counting goes on",
    "serving.admin": "one request fails, the control plane goes on",
    "serving.attempt": "whatever a model raises must not stop the replica",
    "serving.controller": "the control loop must not end; serving goes on meanwhile",
    "serving.gateway": "one request fails, the worker goes on",
    "serving.inference": "one answer cannot be written, others of its batch wait for theirs",
    "serving.waking": "whatever Serve answers, whoever waits is told of again",
    "serving.worker": "whatever the control plane wrote, serving goes on with the last table",
}
