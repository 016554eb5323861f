"""What `gaugeway up` checks before it starts anything: ports, exposure, and that the data folder is its own."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from serving import client, up
from serving.config import Config, parse
from serving.errors import ConfigError, Conflict, NotReady

KEYS = [("gateway", "port"), ("admin", "port"), ("metrics", "node_port"), ("metrics", "controller_port")]


def config(folder: Path | str = "", /, **sections: dict[str, Any]) -> Config:
    """All ports free but those that are given."""
    tree: dict[str, dict[str, Any]] = {"gateway": {"port": 0}, "admin": {"port": 0}}
    tree["metrics"] = {"node_port": 0, "controller_port": 0}
    return parse({"data_dir": str(folder), **{s: {**keys, **sections.get(s, {})} for s, keys in tree.items()}})


def ports(of: Config) -> list[int]:
    return [getattr(getattr(of, section), key) for section, key in KEYS]


def test_port_0_becomes_a_free_one_for_each_listener() -> None:
    found = ports(up.with_ports(config()))
    assert len(set(found)) == 4 and min(found) > 0
    servers = [socket.create_server(("127.0.0.1", port)) for port in found]  # free, and let go
    for server in servers:
        server.close()


def test_a_port_that_was_chosen_stays_and_nothing_else_changes() -> None:
    (free, *_) = ports(up.with_ports(config()))
    before = config("/somewhere", admin={"port": free}, gateway={"workers": 3})
    after = up.with_ports(before)
    assert after.admin == before.admin and after.gateway.workers == 3 and after.data_dir == "/somewhere"
    assert up.with_ports(after) == after


@pytest.mark.parametrize(("section", "key"), KEYS)
@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_a_conflict_that_names_its_key(section: str, key: str, where: str) -> None:
    with socket.create_server((where, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict) as refused:
            up.with_ports(config(**{section: {key: port}}))
    assert str(refused.value).startswith(
        f"[{section}] {key}: cannot listen on 127.0.0.1:{port}: Address already in use"
    )
    up.with_ports(config(**{section: {key: port}}))  # once it is free, it is taken


def test_one_port_for_two_listeners_is_a_conflict_of_the_second() -> None:
    (free, *_) = ports(up.with_ports(config()))
    with pytest.raises(Conflict, match=r"^\[metrics\] controller_port: "):
        up.with_ports(config(metrics={"controller_port": free}, gateway={"port": free}))


def test_an_address_of_another_machine_is_a_conflict() -> None:
    with pytest.raises(Conflict, match=r"\[metrics\] node_port: cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        up.with_ports(config(metrics={"host": "192.0.2.1"}))


@pytest.mark.parametrize("section", ["gateway", "admin"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "gateway.example", ""])
def test_other_hosts_are_refused_unless_they_are_allowed(
    section: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposed = config(tmp_path / "data", **{section: {"host": host}})
    for value in ("", "0", "yes"):
        monkeypatch.setenv("GAUGEWAY_ALLOW_OPEN", value)
        with pytest.raises(ConfigError, match=rf"^\[{section}\] host = {host!r} is not loopback"):
            up.start(exposed)
    assert not (tmp_path / "data").exists()  # it is the first thing that is looked at
    monkeypatch.setenv("GAUGEWAY_ALLOW_OPEN", "1")
    up.check_exposure(exposed)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_permission(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAUGEWAY_ALLOW_OPEN", raising=False)
    up.check_exposure(config(gateway={"host": host}, admin={"host": host}, metrics={"host": host}))


def test_metrics_may_be_scraped_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAUGEWAY_ALLOW_OPEN", raising=False)
    for host in ("0.0.0.0", "node.example"):
        up.check_exposure(config(metrics={"host": host}))


def test_one_gateway_a_data_folder(tmp_path: Path) -> None:
    lock = up._lock(config(tmp_path / "a"))
    with pytest.raises(Conflict, match=f"already on the data folder {tmp_path / 'a'}"):
        up._lock(config(tmp_path / "a"))
    up._lock(config(tmp_path / "b")).close()
    lock.close()
    up._lock(config(tmp_path / "a")).close()


def test_a_second_start_harms_the_first_in_nothing(tmp_path: Path) -> None:
    first = config(tmp_path)
    with up._lock(first):
        first.run_dir.mkdir()
        up._remember(first)
        first.socket_dir.mkdir()
        try:
            with pytest.raises(Conflict, match="a gateway runs already"):
                up.start(first)
            assert first.socket_dir.exists() and client._running(first)["pid"] == os.getpid()
        finally:
            first.socket_dir.rmdir()


def test_a_start_that_finds_its_port_taken_leaves_nothing_and_starts_no_ray(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = config(tmp_path, admin={"port": taken.getsockname()[1]})
        busy.run_dir.mkdir()
        up._remember(busy)  # of a predecessor that was killed
        said: list[str] = []
        with pytest.raises(Conflict, match=r"\[admin\] port"):
            up.start(busy, said.append)
    assert said == []  # not even "starting Ray"
    assert not busy.socket_dir.exists() and not (busy.run_dir / "up.json").exists()
    with pytest.raises(NotReady, match="no gateway runs"):
        client.status(busy)
    up._lock(busy).close()


def test_where_it_listens_is_written_whole(tmp_path: Path) -> None:
    one = config(tmp_path, gateway={"host": "::1", "port": 1}, admin={"port": 2}, metrics={"node_port": 3})
    one.run_dir.mkdir()
    up._remember(one)
    assert [path.name for path in one.run_dir.iterdir()] == ["up.json"]
    assert json.loads((one.run_dir / "up.json").read_text()) == {
        "pid": os.getpid(),
        "gateway": "http://[::1]:1",
        "admin": "http://127.0.0.1:2",
        "metrics": "http://127.0.0.1:3",
    }
