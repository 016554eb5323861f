"""Labels on their way from the gateway to the node's sidecar, which answers once they are on disk."""

from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from serving.errors import NotReady


class Desk:
    """A client of the sidecar's unix socket; made and used inside one event loop."""

    def __init__(self, socket: Path, timeout_s: float = 10.0) -> None:
        self._socket, self._timeout_s = socket, timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def submit(self, labels: list[dict[str, Any]]) -> dict[str, Any]:
        """The sidecar's count of what was joined, parked, unknown, refused. Raises NotReady when it is away."""
        try:
            async with self._open().post("http://sidecar/labels", data=msgspec.json.encode(labels)) as response:
                if response.status != 200:
                    raise NotReady(f"the monitors answered {response.status}: {(await response.text())[:200]}")
                counted: dict[str, Any] = await response.json()
                return counted
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NotReady(
                f"labels were not taken, the monitors are away ({type(error).__name__}); send again"
            ) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=timeout)
        return self._session
