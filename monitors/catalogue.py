"""What the monitors know of versions: from the journal first, from the model repository where it is new.

A version met once is kept in the journal, so that a sidecar restarts while the registry cannot be reached. So is every
reference that came after its publication.
"""

from collections.abc import Callable
from itertools import pairwise

import msgspec

from monitors import reference
from monitors.adoption import Adoption, Edition
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
        self._take_up()

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

    def lacks(self, adoption: Adoption) -> bool:
        """Whether the version is known and its newest reference is another one.

        That of an earlier order too: it holds again where the registry was restored from a copy.
        """
        known = self._known.get((adoption.model, adoption.version))
        if known is None or known.manifest.digest != adoption.content:
            return False
        published = 0, known.manifest.files.get(REFERENCE_FILE, "")
        newest = (known.later[-1].order, known.later[-1].digest) if known.later else published
        return newest != (adoption.order, adoption.reference)

    def fetch(self, name: Name, digest: str) -> bytes:
        """A later reference of a version that is known, by its digest. Raises Unavailable, ArtifactCorrupt."""
        if not digest:
            return b""
        data = self._read(self._known[name].manifest.with_reference(digest), REFERENCE_FILE)
        reference.decode(data)
        return data

    def adopt(self, adoption: Adoption, since: int, profile: bytes, sealed: int) -> None:
        """Count the slots of a version from `since` on with what `fetch` gave; `lacks` holds.

        Slots before `sealed` have their rows: references of these alone are forgotten.
        """
        later = self._known[adoption.model, adoption.version].later
        since = max([since, *(edition.since for edition in later)])
        place = later[-1].place + 1 if later else 1
        self._journal.begin()
        key = (adoption.model, adoption.version, place)
        self._journal.put("edition", {key: msgspec.msgpack.encode((adoption, since, profile))})
        self._append(place, adoption, since, profile)
        self._forget(adoption.model, adoption.version, sealed)

    def _forget(self, model: str, version: str, sealed: int) -> None:
        """The publication's stays: losses are held to it."""
        later = self._known[model, version].later
        past = [edition for edition, successor in pairwise(later) if successor.since <= sealed]
        self._journal.remove("edition", [(model, version, edition.place) for edition in past])
        self._known[model, version] = msgspec.structs.replace(self._known[model, version], later=later[len(past) :])

    def _ask(self, model: str, version: str) -> Manifest | None:
        try:
            return self._manifest_of(model, version)
        except NotFound:
            return None

    def _remember(self, found: Manifest) -> Version:
        try:
            profile = self._read(found, REFERENCE_FILE) if REFERENCE_FILE in found.files else b""
            self._keep(found.encode(), profile)
        except ArtifactCorrupt as error:
            self._known[found.model, found.version] = Version(found, broken=str(error))
        else:
            self._journal.begin()
            stored = msgspec.msgpack.encode((found.encode(), profile))
            self._journal.put("version", {(found.model, found.version): stored})
        self._take_up()
        return self._known[found.model, found.version]

    def _keep(self, document: bytes, profile: bytes) -> None:
        found = manifest.decode(document)
        self._known[found.model, found.version] = Version(found, reference.decode(profile) if profile else None)

    def _take_up(self) -> None:
        """The references of known versions, as the journal has them, in the order in which they came."""
        for (_, _, place), data in sorted(self._journal.all("edition").items()):
            self._append(int(place), *msgspec.msgpack.decode(data, type=tuple[Adoption, int, bytes]))

    def _append(self, place: int, adoption: Adoption, since: int, profile: bytes) -> None:
        known = self._known.get((adoption.model, adoption.version))
        if known is None or known.manifest.digest != adoption.content:
            return
        if not known.later or known.later[-1].place < place:
            decoded = reference.decode(profile) if profile else None
            later = (*known.later, Edition(adoption.order, since, decoded, adoption.reference, place))
            self._known[adoption.model, adoption.version] = msgspec.structs.replace(known, later=later)
