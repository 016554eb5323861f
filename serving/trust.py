"""Who may speak over TCP: both ends prove that they know the cluster's secret before there is any frame.

    replica -> gateway   GWT1, 32 random bytes r
    gateway -> replica   32 random bytes g, HMAC-SHA256(secret, "gateway" r g)
    replica -> gateway   HMAC-SHA256(secret, "replica" r g)

Neither end learns the secret. A recorded handshake opens nothing, since both ends' bytes are new each time; a proof
that is sent back proves nothing, since it says whose it is. What follows is as open to whoever sits on the wire as
TCP is; mutual TLS around all of it keeps others from reading and changing it.
"""

import asyncio
import hmac
import logging
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from serving.config import ChannelTls
from serving.errors import ConfigError, Untrusted

log = logging.getLogger("gaugeway.trust")

PROVE_S = 3.0  # for the whole handshake
GONE_S = 10  # a machine that says nothing; gateways say something every quarter of a second
MAX_PENDING = 256  # connections that have proved nothing yet; more are closed
_GREETING, _RANDOM_BYTES, _PROOF_BYTES = b"GWT1", 32, 32
_CHALLENGE_BYTES = len(_GREETING) + _RANDOM_BYTES


@dataclass(frozen=True)
class Trust:
    """What opens a channel over TCP: the cluster's secret, and TLS where certificates are configured."""

    secret: bytes
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    def proof(self, whose: bytes, replica: bytes, gateway: bytes) -> bytes:
        return hmac.digest(self.secret, whose + replica + gateway, "sha256")


def trust(secret: str, tls: ChannelTls) -> Trust:
    """Raises ConfigError for files that do not serve."""
    if not tls.certificate:
        return Trust(secret.encode())
    server, client = _context(tls, ssl.PROTOCOL_TLS_SERVER), _context(tls, ssl.PROTOCOL_TLS_CLIENT)
    return Trust(secret.encode(), server, client)


def _context(tls: ChannelTls, end: int) -> ssl.SSLContext:
    """TLS 1.3, both ends with a certificate of one authority; no names, since addresses of replicas change."""
    context = ssl.SSLContext(end)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")  # encrypted: nobody to ask
        context.load_verify_locations(tls.ca)
    except OSError as error:  # ssl.SSLError is one
        files = f"{tls.certificate}, {tls.key} and {tls.ca}"
        raise ConfigError(f"[channel] tls: expected PEM files that fit together, got {files}: {error}") from None
    return context


def listener(host: str) -> socket.socket:
    """On a free port. The kernel ends what it accepted once the other machine has been silent for GONE_S."""
    sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, GONE_S // 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, GONE_S // 2),
        (socket.TCP_USER_TIMEOUT, GONE_S * 1000),
    ):  # fmt: skip
        sock.setsockopt(socket.IPPROTO_TCP, option, value)  # what is accepted has them too
    sock.setblocking(False)
    return sock


class Exchange(asyncio.BufferedProtocol):
    """One end of the handshake: `expected` bytes of the other end, once, within PROVE_S; anything else ends it."""

    def __init__(self, trust: Trust, expected: int) -> None:
        self._trust, self._expected = trust, expected
        self._random = secrets.token_bytes(_RANDOM_BYTES)
        self._buffer, self._have = bytearray(expected), 0
        self._transport: asyncio.Transport | None = None
        self._limit = asyncio.get_running_loop().call_later(PROVE_S, self.refuse, f"nothing within {PROVE_S:g} s")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def get_buffer(self, hint: int) -> memoryview:
        return memoryview(self._buffer)[self._have :] or memoryview(bytearray(1))

    def buffer_updated(self, size: int) -> None:
        self._have += size
        if self._have > self._expected:
            self.refuse("more than was asked for")
        elif self._have == self._expected:
            self.prove(bytes(self._buffer))

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self.refuse("the end of the connection")

    def prove(self, said: bytes) -> None:
        """Judge what the other end said."""
        raise NotImplementedError

    def refuse(self, got: str) -> None:
        self._limit.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def enter(self, protocol: asyncio.BufferedProtocol) -> None:
        """Proved: from here on the connection is `protocol`'s."""
        self._limit.cancel()
        transport, self._transport = self._transport, None
        assert transport is not None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Door:
    """A replica's TCP listener: who proves to know the secret becomes a connection, others are counted."""

    def __init__(
        self, trust: Trust, opened: Callable[[], asyncio.BufferedProtocol], refused: Callable[[], None]
    ) -> None:
        self.trust, self.opened, self._refused = trust, opened, refused
        self.waiting: set[Knock] = set()

    def __call__(self) -> "Knock":
        return Knock(self)

    def refused(self, peer: object, got: str) -> None:
        self._refused()
        log.warning("refused a connection from %s: expected a proof of the cluster's secret, got %s", peer, got)


class Knock(Exchange):
    """The replica's end."""

    def __init__(self, door: Door) -> None:
        super().__init__(door.trust, _RANDOM_BYTES + _PROOF_BYTES)
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._door.waiting) >= MAX_PENDING:
            self.refuse(f"no room: {MAX_PENDING} others have proved nothing yet")
            return
        self._door.waiting.add(self)
        assert self._transport is not None
        self._transport.write(_GREETING + self._random)

    def prove(self, said: bytes) -> None:
        assert self._transport is not None
        theirs, proof = said[:_RANDOM_BYTES], said[_RANDOM_BYTES:]
        if not hmac.compare_digest(proof, self._trust.proof(b"gateway", self._random, theirs)):
            self.refuse("a wrong one")
            return
        self._transport.write(self._trust.proof(b"replica", self._random, theirs))
        self._door.waiting.discard(self)
        self.enter(self._door.opened())

    def refuse(self, got: str) -> None:
        if self._transport is not None:
            self._door.refused(self._transport.get_extra_info("peername"), got)
        self._door.waiting.discard(self)
        super().refuse(got)


class Visit(Exchange):
    """The gateway's end; `entered` is set when the connection is `protocol`'s, or fails with Untrusted."""

    def __init__(self, trust: Trust, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__(trust, _CHALLENGE_BYTES)
        self._protocol = protocol
        self._theirs = b""
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def prove(self, said: bytes) -> None:
        if self._theirs:
            self._judge(said)
        elif not said.startswith(_GREETING):
            self.refuse(f"{said[:4]!r}, no challenge")
        else:
            assert self._transport is not None
            self._theirs = said.removeprefix(_GREETING)
            self._buffer, self._have, self._expected = bytearray(_PROOF_BYTES), 0, _PROOF_BYTES
            self._transport.write(self._random + self._trust.proof(b"gateway", self._theirs, self._random))

    def _judge(self, proof: bytes) -> None:
        if not hmac.compare_digest(proof, self._trust.proof(b"replica", self._theirs, self._random)):
            self.refuse("a wrong proof")
            return
        self.enter(self._protocol)
        if not self.entered.done():  # nobody may wait any more
            self.entered.set_result(None)

    def refuse(self, got: str) -> None:
        super().refuse(got)
        if not self.entered.done():
            self.entered.set_exception(Untrusted(f"expected a replica that knows the cluster's secret, got {got}"))
            self.entered.exception()  # nobody may wait any more
