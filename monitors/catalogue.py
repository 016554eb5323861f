"""What the monitors know of versions: from the journal first, from the model repository where it is new.

A version met once is kept in the journal, so that a sidecar restarts while the registry cannot be reached.
"""

from collections.abc import Callable

import msgspec

from monitors import reference
from monitors.book import Version
from monitors.journal import Journal
from monitors.ledger import Identity, Name
from serving import manifest
from serving.errors import ArtifactCorrupt, NotFound
from serving.manifest import REFERENCE_FILE, Manifest

ASK_AGAIN_S = 5.0  # about a version that the repository did not know


class Catalogue:
    """`manifest_of(model, version)` and `read(manifest, name)` are those of the repository."""

    def __init__(
        self, manifest_of: Callable[[str, str], Manifest], read: Callable[[Manifest, str], bytes], journal: Journal
    ) -> None:
        self._manifest_of, self._read, self._journal = manifest_of, read, journal
        self._known: dict[Name, Version] = {}
        self._unknown: dict[Identity, float] = {}
        for data in journal.all("version").values():
            self._keep(*msgspec.msgpack.decode(data, type=tuple[bytes, bytes]))

    @property
    def known(self) -> list[Version]:
        return list(self._known.values())

    def find(self, identity: Identity, now: float) -> Version | None:
        """The version whose content has this digest; None when the repository has no such one.

        Raises Unavailable when the repository cannot be reached: then ask again.
        """
        model, version, digest = identity
        known = self._known.get((model, version))
        if known is not None and known.manifest.digest == digest:
            return known
        if now - self._unknown.get(identity, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return None
        found = self._ask(model, version)
        if found is not None and found.digest == digest:
            return self._remember(found)
        self._unknown[identity] = now
        return None

    def learn(self, served: Manifest) -> Version:
        """A version that is served, whether or not it had a request yet. Raises Unavailable as `find` does."""
        known = self._known.get((served.model, served.version))
        return known if known is not None and known.manifest.digest == served.digest else self._remember(served)

    def _ask(self, model: str, version: str) -> Manifest | None:
        try:
            return self._manifest_of(model, version)
        except NotFound:
            return None

    def _remember(self, found: Manifest) -> Version:
        try:
            profile = self._read(found, REFERENCE_FILE) if REFERENCE_FILE in found.files else b""
            version = self._keep(found.encode(), profile)
        except ArtifactCorrupt as error:
            version = self._known[found.model, found.version] = Version(found, broken=str(error))
            return version
        self._journal.begin()
        stored = msgspec.msgpack.encode((found.encode(), profile))
        self._journal.put("version", {(found.model, found.version): stored})
        return version

    def _keep(self, document: bytes, profile: bytes) -> Version:
        found = manifest.decode(document)
        version = Version(found, reference.decode(profile) if profile else None)
        self._known[found.model, found.version] = version
        return version
