"""`gaugeway up` with a certificate: the data plane speaks TLS, and takes a new pair while it runs."""

import json
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests import certificates, models
from tests.conformance.client import ok
from tests.gateway import gaugeway, running, until
from tests.integration.calls import one_sentence


def test_a_whole_gateway_speaks_tls_and_renews_its_certificate(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    files = certificates.write(tmp_path / "tls")
    keys = f'tls = {{ certificate = "{files.certificate}", key = "{files.key}" }}'
    with running(tmp_path, {"linear": models.linear()}, gateway=keys) as up:
        where = urlsplit(up.url)
        assert where.scheme == "https"
        assert ok(httpx.get(f"{up.url}/v2/models/linear/ready", verify=_trust(files.certificate)))["ready"]
        labels = tmp_path / "labels.jsonl"
        labels.write_text(json.dumps({"id": "nobody", "label": 1}))
        assert "0 joined" in up.call("label", "linear", str(labels)).stdout  # our own client, which trusts the file
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{where.netloc}/v2/health/live")
        worker, address = up.process_id("worker-0"), (where.hostname or "", where.port or 0)
        old = ssl.get_server_certificate(address)
        certificates.write(tmp_path / "tls", "renewed")
        until(lambda: ssl.get_server_certificate(address) != old, "the new certificate", 10)
        assert ok(httpx.get(f"{up.url}/v2/health/live", verify=_trust(files.certificate)))
        assert up.process_id("worker-0") == worker


def test_a_certificate_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "gaugeway.toml"
    config.write_text(
        f'data_dir = "{tmp_path / "data"}"\n[gateway]\ntls = {{ certificate = "no.pem", key = "no.key" }}\n'
    )
    done = gaugeway("up", "--config", str(config), check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert f"[gateway] tls.certificate: cannot read {tmp_path / 'no.pem'}: No such file" in one_sentence(done.stderr)
    assert not (tmp_path / "data").exists()


def _trust(certificate: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)
