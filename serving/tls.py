"""TLS of the data plane: the server's context, which takes a renewed certificate without a restart.

At a handshake, at most once in `CHECK_S`, the files are looked at; what has changed is loaded beside what is in use
and takes its place only when certificate and key fit together. Connections that are open stay as they are.
"""

import logging
import ssl
import time
from pathlib import Path

from serving.config import Tls
from serving.errors import ConfigError

log = logging.getLogger("gaugeway.tls")

CHECK_S = 1.0


def server_context(settings: Tls) -> ssl.SSLContext | None:
    """What a listener takes as `ssl`; None without a certificate. Raises ConfigError for files that do not serve."""
    if not settings.certificate:
        return None
    context = _load(settings)
    context.sni_callback = Renewal(settings, context)
    return context


def pinned(certificate: str) -> ssl.SSLContext:
    """For asking our own listener: exactly the certificate of this file is trusted, whatever name it is for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be a root
    context.load_verify_locations(certificate)
    return context


class Renewal:
    """Gives each handshake the newest pair that fits together.

    OpenSSL asks its callback for server names at every handshake, with or without a name.
    """

    def __init__(self, settings: Tls, context: ssl.SSLContext) -> None:
        self._settings, self._current = settings, context
        self._seen, self._checked = _stamp(settings), time.monotonic()

    def __call__(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if time.monotonic() - self._checked >= CHECK_S:
            self._look()
        handshake.context = self._current

    def _look(self) -> None:
        self._checked, stamp = time.monotonic(), _stamp(self._settings)
        if stamp == self._seen:
            return
        self._seen = stamp  # before it is loaded: a change meanwhile is seen the next time
        try:
            self._current = _load(self._settings)
            log.info("the certificate %s was read again", self._settings.certificate)
        except ConfigError as error:
            log.error("the last certificate stays in use: %s", error)


def _stamp(settings: Tls) -> tuple[tuple[int, ...], ...]:
    """Changes when a file is written, replaced or removed, also behind a symbolic link."""
    return tuple(_identity(Path(path)) for path in (settings.certificate, settings.key))


def _identity(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _load(settings: Tls) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with the ciphers that Python keeps sane: forward secrecy, no SHA-1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # costs the server more than the client
    context.set_alpn_protocols(["http/1.1"])
    for key, path in (("certificate", settings.certificate), ("key", settings.key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ConfigError(f"[gateway] tls.{key}: cannot read {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_nobody_to_ask)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(_said(settings, error)) from None
    return context


def _nobody_to_ask() -> bytes:
    """An encrypted key fails, where OpenSSL would ask the terminal."""
    return b""


def _said(settings: Tls, error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or "OpenSSL cannot read them"
    if reason == "KEY_VALUES_MISMATCH":
        return f"[gateway] tls: the key {settings.key} does not belong to the certificate {settings.certificate}"
    return (
        f"[gateway] tls: got {settings.certificate} and {settings.key}, expected a PEM certificate with its chain and"
        f" its key, not encrypted: {reason}"
    )
