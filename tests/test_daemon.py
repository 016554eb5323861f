"""`gaugeway up --detach` where it cannot start: it returns with the reason, and nothing is left. It starts in
integration/test_lifecycle."""

import socket
from pathlib import Path

from serving import up
from serving.config import load
from tests.gateway import CONFIG, gaugeway
from tests.integration.calls import one_sentence


def configured(folder: Path) -> Path:
    file = folder / "gaugeway.toml"
    file.write_text(CONFIG.format(data=folder / "data", retries=1, gateway=""))
    return file


def test_a_port_in_use_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    file = configured(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(file.read_text().replace("[admin]\nport = 0", f"[admin]\nport = {taken.getsockname()[1]}"))
        done = gaugeway("up", "--detach", "--config", str(file), check=False)
    said = one_sentence(done.stderr)
    assert done.returncode == 1 and "[admin] port: cannot listen on" in said and "logs/up.log" in said
    assert done.stdout == "" and "[admin] port" in (tmp_path / "data" / "logs" / "up.log").read_text()
    up._lock(load(file, {})).close()


def test_a_second_one_on_the_same_folder_is_told_so_each_time(tmp_path: Path) -> None:
    file = configured(tmp_path)
    with up._lock(load(file, {})):
        for _ in range(2):  # the log of the first time is no reason of the second
            done = gaugeway("up", "--detach", "--config", str(file), check=False)
            assert done.returncode == 1
            assert f"a gateway runs already on the data folder {tmp_path / 'data'}" in one_sentence(done.stderr)
    assert (tmp_path / "data" / "logs" / "up.log").read_text().count("runs already") == 2
