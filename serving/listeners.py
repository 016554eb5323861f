"""Asking Gaugeway's own listeners: their URLs, and a client that no proxy of the environment comes between."""

import json
import urllib.error
import urllib.request
from typing import Any

from serving import tls
from serving.config import Gateway
from serving.errors import GaugewayError

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def url(host: str, port: int, scheme: str = "http") -> str:
    """
    >>> url("127.0.0.1", 8080), url("::1", 8080)
    ('http://127.0.0.1:8080', 'http://[::1]:8080')
    """
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def data_plane(gateway: Gateway) -> str:
    return url(gateway.host, gateway.port, "https" if gateway.tls.certificate else "http")


def ask(request: str | urllib.request.Request, timeout_s: float, certificate: str = "") -> Any:
    """The open response, to be read and closed; over TLS only of the one whose `certificate` this is.

    Raises OSError, of which HTTPError is one.
    """
    return _opener(certificate).open(request, timeout=timeout_s)


def named(error: urllib.error.HTTPError) -> GaugewayError:
    """The sentence of an answer that is an error."""
    try:
        return GaugewayError(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):  # not of this program
        return GaugewayError(f"{error.url} answered {error.code}")


def _opener(certificate: str) -> urllib.request.OpenerDirector:
    if not certificate:
        return _direct
    trusting = urllib.request.HTTPSHandler(context=tls.pinned(certificate))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), trusting)
