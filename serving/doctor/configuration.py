"""The configuration: one that is understood, and that does not open a door to everybody."""

from pathlib import Path

from serving.config import Config, load
from serving.doctor.finding import Finding, fault, ok
from serving.errors import ConfigError
from serving.up import check_exposure


def gather(path: Path | None) -> Config | ConfigError:
    try:
        return load(path)
    except ConfigError as error:
        return error


def check(found: Config | ConfigError, path: Path | None) -> list[Finding]:
    where = str(path or (Path("gaugeway.toml") if Path("gaugeway.toml").exists() else "defaults"))
    if isinstance(found, ConfigError):
        return [fault("configuration", str(found), f"correct {where}; docs/configuration.md has every key")]
    return [ok("configuration", f"{where}, understood"), _exposure(found)]


def _exposure(config: Config) -> Finding:
    try:
        check_exposure(config)
    except ConfigError as error:
        return fault("exposure", str(error), 'host = "127.0.0.1", and an authenticating proxy in front')
    return ok("exposure", f"requests are taken at {config.gateway.host}, control at {config.admin.host}")
