"""Sidecars speaking to one another over HTTP, each proving that it knows the cluster's secret.

A request carries the seconds since 1970 and an HMAC-SHA256 over them, the path and the body, so that nobody else can
make one or change it. Who repeats one he saw repeats what does not add up twice: slots and labels are idempotent.
"""

import hmac
import urllib.request
from http.client import HTTPException

from serving.errors import Unavailable

HEADER = "x-gaugeway-proof"
SKEW_S = 300.0  # how far the clocks of two nodes may be apart
TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 64 * 2**20

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def prove(secret: bytes, path: str, body: bytes, now: float) -> str:
    """The header's value.

    >>> proof = prove(b"secret", "/slots", b"body", now=1000.2)
    >>> [holds(b"secret", "/slots", body, proof, now=1200.0) for body in (b"body", b"other")]
    [True, False]
    >>> holds(b"secret", "/slots", b"body", proof, now=2000.0), holds(b"secret", "/slots", b"body", "", now=1000.0)
    (False, False)
    """
    at = str(int(now))
    return f"{at}:{hmac.new(secret, b'%s %s ' % (at.encode(), path.encode()) + body, 'sha256').hexdigest()}"


def holds(secret: bytes, path: str, body: bytes, proof: str, now: float) -> bool:
    """Whether `proof` was made with the secret, for this request, and lately. Without a secret nothing is proved."""
    at = proof.partition(":")[0]
    if not (secret and at.isascii() and at.isdigit() and len(at) < 15 and abs(int(at) - now) <= SKEW_S):
        return False
    return hmac.compare_digest(prove(secret, path, body, float(at)).encode(), proof.encode(errors="replace"))


def post(address: str, path: str, body: bytes, secret: bytes, now: float) -> bytes:
    """The answer's body. Raises Unavailable when there is none, or another status than 200."""
    headers = {HEADER: prove(secret, path, body, now), "content-type": "application/octet-stream"}
    request = urllib.request.Request(f"http://{address}{path}", data=body, headers=headers)
    try:
        with _direct.open(request, timeout=TIMEOUT_S) as answer:
            found: bytes = answer.read(_MAX_ANSWER_BYTES)
            return found
    except (OSError, HTTPException, ValueError) as error:  # HTTPError is an OSError
        raise Unavailable(f"the sidecar at {address}{path}: {error}") from None
