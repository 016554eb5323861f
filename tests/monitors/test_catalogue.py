import msgspec
import numpy as np
import pytest

from monitors.adoption import Adoption
from monitors.catalogue import ASK_AGAIN_S, Catalogue
from monitors.journal import Journal
from serving.errors import ArtifactCorrupt, Unavailable, UnknownVersion
from serving.manifest import Manifest
from tests.monitors.traffic import Registry, manifest, profile

NAME = ("m", "1", manifest("1").digest)


def test_a_version_is_asked_for_once_and_known_after_a_restart_without_the_repository() -> None:
    journal, asked = Journal(None, "test"), []
    registry = Registry(manifest("1"))

    def manifest_of(model: str, version: str) -> Manifest:
        asked.append(version)
        return registry.manifest(model, version)

    def away(model: str, version: str) -> Manifest:
        raise Unavailable("the registry cannot be reached")

    first = Catalogue(manifest_of, registry.read, journal)
    for _ in range(3):
        version = first.find(NAME, now=0.0)
        assert version is not None
        assert version.profile == profile()
    assert asked == ["1"]
    again = Catalogue(away, registry.read, journal)
    assert again.find(NAME, now=0.0) == version
    with pytest.raises(Unavailable):
        again.find(("m", "1", "other"), now=0.0)


def test_an_unknown_version_is_asked_for_again_after_a_while() -> None:
    versions: dict[str, Manifest] = {}

    def manifest_of(model: str, version: str) -> Manifest:
        if version not in versions:
            raise UnknownVersion(model, version)
        return versions[version]

    subject = Catalogue(manifest_of, Registry().read, Journal(None, "test"))
    assert subject.find(NAME, now=100.0) is None
    versions["1"] = manifest("1")
    assert subject.find(NAME, now=100.0 + ASK_AGAIN_S / 2) is None
    assert subject.find(NAME, now=100.0 + ASK_AGAIN_S) is not None


def test_other_content_than_the_record_names_is_not_taken_for_it() -> None:
    subject = Catalogue(Registry(manifest("1")).manifest, Registry().read, Journal(None, "test"))
    assert subject.find(("m", "1", "0" * 64), now=0.0) is None
    other = msgspec.structs.replace(manifest("1"), files={"model.onnx": "other"})
    again = Catalogue(Registry(other).manifest, Registry().read, Journal(None, "test"))
    assert again.find(NAME, now=0.0) is None
    assert again.find(("m", "1", other.digest), now=0.0) is not None


@pytest.mark.parametrize("data", [b"{}", b"not json", None])
def test_a_profile_that_cannot_be_read_leaves_a_version_that_says_so(data: bytes | None) -> None:
    def read(found: Manifest, name: str) -> bytes:
        if data is None:
            raise ArtifactCorrupt("got digest a, expected b")
        return data

    version = Catalogue(Registry(manifest("1")).manifest, read, Journal(None, "test")).find(NAME, now=0.0)
    assert version is not None
    assert version.profile is None
    assert version.notes[0].startswith("drift is not monitored: ")


def test_later_references_are_kept_in_their_order_and_outlive_a_restart() -> None:
    spring, summer = profile(seed=2), profile(seed=3)
    registry, journal = Registry(manifest("1"), profiles=[spring, summer]), Journal(None, "test")
    subject = Catalogue(registry.manifest, registry.read, journal)
    first, second = (
        Adoption("m", "1", manifest("1").digest, order, one.digest, since=100)
        for order, one in ((3, spring), (5, summer))
    )
    assert not subject.lacks(first)  # nobody has met the version
    subject.learn(manifest("1"))
    for adoption, since in ((first, 110), (second, 100)):
        assert subject.lacks(adoption)
        subject.adopt(adoption, since, subject.fetch(NAME[:2], adoption.reference), sealed=0)
        assert not subject.lacks(adoption)
    for known in (subject.known, Catalogue(registry.manifest, registry.read, journal).known):
        assert [(one.order, one.since, one.profile) for one in known[0].later] == [(3, 110, spring), (5, 110, summer)]
        slots = np.array([110, 109, 111])
        assert [known[0].order(slot) for slot in slots] == [5, 0, 5]
        assert [(digest, mine.tolist()) for digest, _, mine in known[0].divided(slots)] == [
            ("", [False, True, False]), (summer.digest, [True, False, True]),
        ]  # fmt: skip
    other = msgspec.structs.replace(manifest("1"), files={"model.onnx": "other"})
    assert subject.learn(other).later == ()


def test_a_reference_that_held_before_holds_again_and_a_number_may_come_twice() -> None:
    """As where the registry was restored from a copy: order 3, 5, then 3, another 5, and none but the publication."""
    seasons = [profile(seed=seed) for seed in (2, 3, 2, 4)] + [profile()]
    registry, journal = Registry(manifest("1"), profiles=seasons), Journal(None, "test")
    subject = Catalogue(registry.manifest, registry.read, journal)
    subject.learn(manifest("1"))
    told = [
        Adoption("m", "1", manifest("1").digest, order, one.digest, since=100)
        for order, one in zip((3, 5, 3, 5, 0), seasons, strict=True)
    ]
    assert not subject.lacks(told[-1])  # it was published with it
    for since, adoption in enumerate(told, start=100):
        assert subject.lacks(adoption)
        subject.adopt(adoption, since, subject.fetch(NAME[:2], adoption.reference), sealed=0)
        assert not subject.lacks(adoption)
    nothing = Adoption("m", "1", manifest("1").digest, 0, "", since=100)
    subject.adopt(nothing, 105, subject.fetch(NAME[:2], ""), sealed=0)
    for known in (subject.known, Catalogue(registry.manifest, registry.read, journal).known):
        assert [known[0].order(slot) for slot in range(99, 106)] == [0, 3, 5, 3, 5, 0, 0]
        slots = np.arange(99, 106)
        found = {digest: profile for digest, profile, _ in known[0].divided(slots)}
        assert found == {"": profile(), **{one.digest: one for one in seasons}}
        assert np.flatnonzero(known[0].unreferenced(slots)).tolist() == [6]


def test_references_of_sealed_slots_alone_are_forgotten() -> None:
    seasons = [profile(seed=seed) for seed in (2, 3, 4)]
    registry, journal = Registry(manifest("1"), profiles=seasons), Journal(None, "test")
    subject = Catalogue(registry.manifest, registry.read, journal)
    subject.learn(manifest("1"))
    for order in range(1, 60):
        one = seasons[order % 3]
        told = Adoption("m", "1", manifest("1").digest, order, one.digest, since=100 + 2 * order)
        subject.adopt(told, told.since, subject.fetch(NAME[:2], one.digest), sealed=told.since - 3)
        for known in (subject.known[0], Catalogue(registry.manifest, registry.read, journal).known[0]):
            assert [known.order(slot) for slot in range(told.since - 3, told.since + 1)][-2:] == [order - 1, order]
            assert len(known.later) == len(journal.all("edition")) <= 3
            assert known.profile == profile()


def test_a_profile_that_is_none_is_not_adopted() -> None:
    registry = Registry(manifest("1"))
    registry.profiles["broken"] = b"{}"
    subject = Catalogue(registry.manifest, registry.read, Journal(None, "test"))
    subject.learn(manifest("1"))
    with pytest.raises(ArtifactCorrupt, match="not a reference profile"):
        subject.fetch(("m", "1"), "broken")
