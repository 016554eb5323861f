"""The certificates of the data plane and the channel: readable, of their keys, and for how long."""

import stat
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from serving.config import Config, Tls
from serving.doctor.finding import Finding, fault, ok, warning
from serving.errors import ConfigError
from serving.tls import server_context

DAY_S = 86400.0
SOON_S = 14 * DAY_S


@dataclass(frozen=True)
class Facts:
    """Of one pair of files. `left_s` until the first certificate of the chain expires; `refusal`: it does not serve."""

    key: str
    certificate: str
    private: str
    left_s: float = 0.0
    mode: int = 0o600
    refusal: str = ""


def gather(config: Config) -> list[Facts]:
    one, other = config.gateway.tls, config.channel.tls
    pairs = {"[gateway.tls]": (one.certificate, one.key), "[channel.tls]": (other.certificate, other.key)}
    return [_facts(name, *pair) for name, pair in pairs.items() if pair[0]]


def check(pairs: list[Facts]) -> list[Finding]:
    return [_finding(pair) for pair in pairs] or [ok("certificates", "none are configured: plain HTTP")]


def _facts(name: str, certificate: str, key: str) -> Facts:
    try:
        server_context(Tls(certificate=certificate, key=key))
        chain = x509.load_pem_x509_certificates(Path(certificate).read_bytes())
    except (ConfigError, ValueError) as error:
        return Facts(name, certificate, key, refusal=str(error))
    expires = min(one.not_valid_after_utc.timestamp() for one in chain)
    return Facts(name, certificate, key, _left_s(expires), stat.S_IMODE(Path(key).stat().st_mode))


def _left_s(expires: float) -> float:
    now = time.time()  # of a calendar, not of a stopwatch
    return expires - now


def _finding(pair: Facts) -> Finding:
    check, renew = f"certificate of {pair.key}", f"renew {pair.certificate}; it is read again without a restart"
    if pair.refusal:
        return fault(check, pair.refusal, f"put a certificate with its chain into {pair.certificate}, its key beside")
    if pair.left_s <= 0:
        return fault(check, f"{pair.certificate} expired {-pair.left_s / DAY_S:.1f} days ago", renew)
    if pair.mode & 0o077:
        return fault(check, f"the key {pair.private} has mode {pair.mode:o}: others can read it",
                     f"chmod 600 {pair.private}, and renew what others could read")  # fmt: skip
    found = f"{pair.certificate} is good for {pair.left_s / DAY_S:.0f} days"
    return warning(check, found, renew) if pair.left_s < SOON_S else ok(check, found)
