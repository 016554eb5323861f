"""Which keys may change while it runs, and the revision on disk."""

from pathlib import Path
from typing import Any

import pytest

from serving import reloading
from serving.config import Config, dump, parse
from serving.errors import BadRequest
from serving.reloading import FIXED, LIVE, Revision, differing

RUNNING = parse({"data_dir": "/srv/one", "gateway": {"port": 8123}, "admin": {"port": 8124}})


def wanted(**sections: dict[str, Any]) -> Config:
    return parse({"gateway": {"port": 8123}, "admin": {"port": 8124}} | sections)


def test_keys_of_the_gateway_and_the_monitors_change_and_the_rest_stays() -> None:
    gateway = {"port": 8123, "deadline_s": 3.0, "max_body_bytes": 1000}
    config, keys = reloading.reload(RUNNING, wanted(gateway=gateway, monitors={"tolerance": 0.1}))
    assert keys == ["gateway.deadline_s", "gateway.max_body_bytes", "monitors.tolerance"]
    assert (config.gateway.deadline_s, config.monitors.tolerance, config.data_dir) == (3.0, 0.1, "/srv/one")
    assert list(differing(RUNNING, config)) == keys


def test_nothing_changes_when_nothing_is_other() -> None:
    assert reloading.reload(RUNNING, wanted()) == (RUNNING, [])


def test_port_0_is_the_port_that_was_chosen_and_models_are_the_registrys() -> None:
    config, keys = reloading.reload(RUNNING, wanted(gateway={"port": 0}, models={"m": {"sticky": "cookie:c"}}))
    assert keys == [] and config == RUNNING


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"gateway": {"port": 9000}}, "gateway.port"),
        ({"gateway": {"port": 8123, "host": "localhost", "workers": 2}}, "gateway.host, gateway.workers"),
        ({"admin": {"port": 8124, "host": "::1"}}, "admin.host"),
        ({"registry": {"database": "sqlite:///x"}, "gateway": {"port": 8123, "retries": 0}}, "registry.database"),
        ({"ray": {"drain_s": 1}}, "ray.drain_s"),
        ({"monitors": {"enabled": False}}, "monitors.enabled"),
        ({"gateway": {"port": 8123, "tls": {"certificate": "/a", "key": "/b"}}}, "gateway.tls.certificate"),
    ],
)
def test_keys_that_cannot_change_are_named_and_nothing_changes(sections: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest, match=rf"^{named}.*: cannot change while it runs, and nothing was changed"):
        reloading.reload(RUNNING, wanted(**sections))


def test_the_fixed_keys_are_keys() -> None:
    for key in FIXED:
        section, *rest = key.split(".")
        found: Any = getattr(RUNNING, section)
        for name in rest:
            found = getattr(found, name)
        assert key.startswith(LIVE)


def test_a_revision_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    assert reloading.last(tmp_path) is None
    kept = Revision(3, dump(RUNNING))
    reloading.keep(tmp_path, kept)
    assert reloading.last(tmp_path) == kept
    reloading.forget(tmp_path)
    reloading.forget(tmp_path)
    assert reloading.last(tmp_path) is None
