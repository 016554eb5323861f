"""Whether the gateway on this data folder answers, as an exit status: for health checks of containers, without curl.

``python -m serving.health``: 0 when it is ready, 1 when it is not, with a sentence on standard error.
"""

import json
import sys
from pathlib import Path

from serving import listeners
from serving.config import Config, load
from serving.errors import GaugewayError, NotReady

TIMEOUT_S = 4.0


def check(config: Config) -> None:
    """Raises NotReady."""
    url = f"{_gateway_url(config.run_dir / 'up.json')}/v2/health/ready"
    try:
        with listeners.ask(url, TIMEOUT_S, config.gateway.tls.certificate):
            return
    except OSError as error:
        raise NotReady(f"no answer from {url}: {getattr(error, 'reason', error)}") from None


def _gateway_url(written: Path) -> str:
    """Where `gaugeway up` says it listens, since ports may be chosen by the system; written once it is up."""
    try:
        return str(json.loads(written.read_text())["gateway"])
    except FileNotFoundError:
        raise NotReady(f"no gateway is up: {written} does not exist") from None


def main() -> int:
    try:
        check(load())
    except GaugewayError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
