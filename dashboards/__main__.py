"""``python -m dashboards [--set KEY=VALUE …] [--out FOLDER]``: compile the dashboards, rules and alerts."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dashboards.compiling import OUT, compiled, write
from serving.errors import ConfigError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dashboards",
        description="Compile the dashboards, rules and alerts for Grafana and Prometheus.",
        epilog="example: python -m dashboards --set grafana_url=https://grafana.example --out /etc/gaugeway/dashboards",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the files go (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", type=_setting,
        help="a setting of config.libsonnet, the value as JSON or a plain word; may be repeated",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        files = compiled(dict(arguments.set))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    write(files, arguments.out)
    print("\n".join(str(arguments.out / name) for name in sorted(files)))


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"want KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    main()
