"""Asking Gaugeway's own listeners: their URLs, and a client that no proxy of the environment comes between."""

import urllib.request
from typing import Any

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def url(host: str, port: int) -> str:
    """
    >>> url("127.0.0.1", 8080), url("::1", 8080)
    ('http://127.0.0.1:8080', 'http://[::1]:8080')
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def ask(request: str | urllib.request.Request, timeout_s: float) -> Any:
    """The open response, to be read and closed. Raises OSError, of which HTTPError is one."""
    return _direct.open(request, timeout=timeout_s)
