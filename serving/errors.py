"""Every error Gaugeway raises on purpose; the HTTP status is a property of the class.

    GaugewayError                     500
    ├── BadRequest                    400  malformed body, tensor, header
    ├── Forbidden                     403
    ├── NotFound                      404
    │   ├── UnknownModel
    │   └── UnknownVersion
    ├── MethodNotAllowed              405
    ├── RequestTimeout                408
    ├── Conflict                      409  other content under an existing version, port in use
    ├── PayloadTooLarge               413
    ├── UnsupportedMediaType          415
    ├── HeaderTooLarge                431  too long a line, too many, too much in all
    ├── ModelFailure                  500  the model itself failed on this input
    ├── UnknownTransferCoding         501
    ├── Unavailable                   503
    │   ├── Overloaded                     a bound was reached; carries retry_after_s
    │   └── NotReady                       no warm replica, no routing table, no sidecar
    ├── DeadlineExceeded              504
    ├── UnknownHttpVersion            505
    ├── ConfigError                   -    configuration, with the path of the key
    ├── PublishRefused                422  a model file that will not be served, with the reason
    ├── ArtifactCorrupt               -    stored bytes differ from their digest
    └── ChannelError                  -    the direct channel to a replica
        ├── ReplicaLost                    connection lost with work in flight
        └── Untrusted                      the other end did not prove that it knows the cluster's secret

A message says got / expected / where: ``model 'fraud' has no version '7'; it has '3', '5'``.
"""

from collections.abc import Iterable

_LISTED = 10  # names in one message


class GaugewayError(Exception):
    """Base of the tree. ``status`` is the HTTP status a client sees."""

    status = 500


class BadRequest(GaugewayError):
    status = 400


class Forbidden(GaugewayError):
    status = 403


class NotFound(GaugewayError):
    status = 404


class UnknownModel(NotFound):
    def __init__(self, model: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"unknown model {model!r}; {_listing('there are', known, 'no model is served')}")
        self.model = model


class UnknownVersion(NotFound):
    def __init__(self, model: str, version: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"model {model!r} has no version {version!r}; {_listing('it has', known, 'it has none')}")
        self.model, self.version = model, version


class MethodNotAllowed(GaugewayError):
    status = 405

    def __init__(self, path: str, method: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"{path[:200]!r} takes {' or '.join(self.allowed)}, got {method}")


class RequestTimeout(GaugewayError):
    status = 408


class Conflict(GaugewayError):
    status = 409


class PayloadTooLarge(GaugewayError):
    status = 413


class UnsupportedMediaType(GaugewayError):
    status = 415


class HeaderTooLarge(GaugewayError):
    status = 431


class ModelFailure(GaugewayError):
    status = 500


class UnknownTransferCoding(GaugewayError):
    status = 501


class Unavailable(GaugewayError):
    """The request may succeed later; ``retry_after_s`` says when to ask again."""

    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """``reason`` is one of `serving.admission.REASONS`."""

    def __init__(self, message: str, retry_after_s: float = 1.0, reason: str = "queue") -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class NotReady(Unavailable):
    pass


class DeadlineExceeded(GaugewayError):
    status = 504


class UnknownHttpVersion(GaugewayError):
    status = 505


class ConfigError(GaugewayError):
    pass


class PublishRefused(GaugewayError):
    status = 422


class ArtifactCorrupt(GaugewayError):
    pass


class ChannelError(GaugewayError):
    pass


class ReplicaLost(ChannelError):
    status = 503


class Untrusted(ChannelError):
    pass


def _listing(verb: str, known: Iterable[str], none: str) -> str:
    names = sorted(known)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{verb} {', '.join(map(repr, names[:_LISTED]))}{more}" if names else none
