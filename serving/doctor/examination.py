"""One examination: all parts after each other. A configuration that is not understood ends it early."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from serving.doctor import (
    certificates,
    cluster,
    configuration,
    folder,
    gateway,
    machine,
    packages,
    ports,
    processes,
    registry,
)
from serving.doctor.finding import Finding
from serving.errors import ConfigError


def examine(
    path: Path | None, environ: Mapping[str, str], progress: Callable[[str], None] = lambda text: None
) -> Iterator[Finding]:
    """Findings as they come; reading every artifact may take a while."""
    progress("machine")
    yield from machine.check(machine.gather())
    yield from packages.check(packages.gather())
    config = configuration.gather(path)
    yield from configuration.check(config, path)
    if isinstance(config, ConfigError):
        return
    progress("data folder and ports")
    yield from folder.check(folder.gather(config))
    yield from certificates.check(certificates.gather(config))
    yield from ports.check(ports.gather(config, gateway.ports(config)))
    progress("Ray")
    yield from cluster.check(cluster.gather(config, environ, processes.command_lines().values()))
    progress("gateway")
    yield from gateway.check(gateway.gather(config))
    progress("registry and artifacts")
    yield from registry.check(registry.gather(config))
