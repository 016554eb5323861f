"""The server's context by handshakes in memory, then over a listener that answers while its certificate changes."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from serving import tls
from serving.config import Tls, parse
from serving.errors import ConfigError
from tests import certificates
from tests.gateway import until


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> ssl.SSLObject:
    """The client's side of a finished handshake. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):  # flights of both sides
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[0].version() is not None
    return sides[0]


def anyone(**settings: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that trusts every certificate, to see which one it is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for key, value in settings.items():
        setattr(context, key, value)
    return context


def context(settings: Tls) -> ssl.SSLContext:
    found = tls.server_context(settings)
    assert found is not None
    return found


def given(server: ssl.SSLContext, name: str | None = None) -> bytes:
    """The certificate that a client is given."""
    found = shake(server, anyone(), name).getpeercert(binary_form=True)
    assert found
    return found


def on_disk(settings: Tls) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(settings.certificate).read_text())


def refusal(settings: Tls) -> str:
    with pytest.raises(ConfigError) as refused:
        tls.server_context(settings)
    return str(refused.value)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls.server_context(Tls()) is None


@pytest.mark.parametrize("name", [None, "localhost", "gateway.example"])
def test_a_client_is_given_the_certificate_whatever_name_it_asks_for(tmp_path: Path, name: str | None) -> None:
    settings = certificates.write(tmp_path)
    assert given(context(settings), name) == on_disk(settings)


def test_tls_1_2_and_1_3_are_spoken_and_nothing_older(tmp_path: Path) -> None:
    server = context(certificates.write(tmp_path))
    for version, spoken in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        client = anyone(minimum_version=version, maximum_version=version)
        assert shake(server, client).version() == spoken
    old = anyone()
    old.set_ciphers("ALL:@SECLEVEL=0")  # or this client would not even ask
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION"):
        shake(server, old)


def test_every_cipher_has_forward_secrecy(tmp_path: Path) -> None:
    weak = anyone(maximum_version=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("kRSA:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"NO_SHARED_CIPHER|HANDSHAKE_FAILURE"):
        shake(context(certificates.write(tmp_path)), weak)


def test_our_own_client_trusts_this_certificate_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ours, other = certificates.write(tmp_path), certificates.write(tmp_path / "other")
    assert shake(context(ours), tls.pinned(ours.certificate)).version()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(context(other), tls.pinned(ours.certificate))


def test_a_new_pair_is_given_to_whoever_connects_from_then_on(tmp_path: Path) -> None:
    settings = certificates.write(tmp_path, "first")
    server = context(settings)
    before = given(server)
    certificates.write(tmp_path, "second")
    until(lambda: given(server) == on_disk(settings), "the new certificate", 5)
    assert on_disk(settings) != before


@pytest.mark.parametrize(
    "breaks",
    [
        lambda folder: (folder / "certificate.pem").write_text("no certificate"),
        lambda folder: (folder / "certificate.pem").write_text(""),
        lambda folder: (folder / "key.pem").unlink(),
        lambda folder: (folder / "key.pem").write_bytes(_another_key(folder)),
    ],
    ids=["garbage", "cut", "gone", "of another certificate"],
)
def test_a_broken_pair_changes_nothing_is_said_once_and_mended_by_the_next(
    tmp_path: Path, breaks: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    settings = certificates.write(tmp_path, "first")
    server = context(settings)
    before = given(server)
    breaks(tmp_path)
    until(lambda: given(server) != before or caplog.records, "a look at the files", 5)
    renewal = server.sni_callback
    assert isinstance(renewal, tls.Renewal)
    for _ in range(3):
        renewal._look()  # the looks of the next seconds
        assert given(server) == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the last certificate stays in use: [gateway] tls" in caplog.text
    certificates.write(tmp_path, "third")
    until(lambda: given(server) == on_disk(settings), "the mended pair", 5)


def _another_key(folder: Path) -> bytes:
    other = folder / "other"
    other.mkdir()
    return Path(certificates.write(other).key).read_bytes()


def test_files_that_cannot_be_read_are_named_with_their_key(tmp_path: Path) -> None:
    settings = certificates.write(tmp_path)
    missing = str(tmp_path / "missing.pem")
    said = refusal(Tls(certificate=missing, key=settings.key))
    assert said == f"[gateway] tls.certificate: cannot read {missing}: No such file or directory"
    said = refusal(Tls(certificate=settings.certificate, key=str(tmp_path)))
    assert said == f"[gateway] tls.key: cannot read {tmp_path}: Is a directory"


def test_a_key_of_another_certificate_is_refused_in_a_sentence(tmp_path: Path) -> None:
    settings = certificates.write(tmp_path)
    Path(settings.key).write_bytes(_another_key(tmp_path))
    assert f"the key {settings.key} does not belong to the certificate {settings.certificate}" in refusal(settings)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    assert "its key, not encrypted" in refusal(certificates.write(tmp_path, password=b"secret"))


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\0" * 100])
@pytest.mark.parametrize("which", ["certificate", "key"])
def test_what_is_no_pem_is_refused_in_a_sentence(tmp_path: Path, which: str, text: str) -> None:
    settings = certificates.write(tmp_path)
    Path(getattr(settings, which)).write_text(text)
    assert "expected a PEM certificate with its chain and its key" in refusal(settings)


def test_paths_are_those_of_the_folder_where_they_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = parse({"gateway": {"tls": {"certificate": "a.pem", "key": "../b.pem"}}}).gateway.tls
    assert (found.certificate, found.key) == (str(tmp_path / "a.pem"), str(tmp_path.parent / "b.pem"))


@pytest.mark.parametrize("alone", ["certificate", "key"])
def test_a_certificate_without_its_key_is_no_configuration(alone: str) -> None:
    with pytest.raises(ConfigError, match=r"`certificate` and `key` need each other - at `\$\.gateway\.tls`"):
        parse({"gateway": {"tls": {alone: "x.pem"}}})
