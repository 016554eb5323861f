"""jsonnet -> what Grafana and Prometheus read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _gojsonnet

from serving.errors import ConfigError
from serving.metrics import SECONDS

HERE = Path(__file__).parent
OUT = HERE / "out"


def compiled(settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """File name -> content, with `settings` in place of those of `config.libsonnet`.

    Raises ConfigError for a setting that there is not, or a latency objective that no bucket ends at.

    >>> sorted(compiled())
    ['alerts.yaml', 'gaugeway-overview.json', 'gaugeway-runbooks.json', 'rules.yaml']
    >>> compiled({"grafana_urls": "https://grafana.example"})
    Traceback (most recent call last):
    serving.errors.ConfigError: the dashboards have no setting 'grafana_urls'; they have ...
    """
    _check(evaluated("(import 'mixin.libsonnet')._config"), settings or {})
    mixin = f"(import 'mixin.libsonnet') + {{ _config+:: {json.dumps(settings or {})} }}"
    files: dict[str, str] = evaluated(f"({mixin}).files")
    return files


def evaluated(jsonnet: str) -> Any:
    """The value of an expression whose imports are relative to this folder. Raises ConfigError where it has none."""
    try:
        return json.loads(_gojsonnet.evaluate_snippet(str(HERE / "snippet"), jsonnet))
    except RuntimeError as error:
        raise ConfigError(f"jsonnet: {error}") from None


def write(files: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def _check(known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key not in known:
            raise ConfigError(f"the dashboards have no setting {key!r}; they have {', '.join(sorted(known))}")
    for objective in {**known, **settings}["objectives"]:
        if objective["latency_s"] not in SECONDS:
            bounds = ", ".join(f"{bound:g}" for bound in SECONDS)
            raise ConfigError(
                f"latency_s of the objective {objective['name']!r} is {objective['latency_s']:g}, where no bucket of"
                f" gaugeway_request_duration_seconds ends; choose one of {bounds}"
            )
