import fcntl
import io
import json
import os
import shlex
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.config import Config, Gateway
from serving.demo import run as demo
from serving.demo.traffic import Traffic
from serving.errors import BadRequest, Conflict
from serving.up import Running

RUNNING = Running(Config(gateway=Gateway(port=12345)), io.StringIO(), None)


def traffic() -> Traffic:
    """Three flights, the last with a missing value."""
    rows = np.array([[1.5, 2], [0.1, 3], [np.nan, 4]], np.float32)
    times = 1364774400 + 3600 * np.arange(3.0)
    return Traffic(["a", "b", "c"], ["EWR1", "JFK2", "LGA3"], times, rows, times + 60, np.ones(3))


def test_the_curl_asks_for_the_last_flight_that_json_can_say() -> None:
    words = shlex.split(demo.curl(traffic(), RUNNING).replace("\\\n", ""))
    assert "http://127.0.0.1:12345/v2/models/flights/infer" in words
    assert "x-user-id: JFK2" in words
    assert "x-gaugeway-event-time: 2013-04-01T02:00:00.000Z" in words
    (tensor,) = json.loads(words[words.index("-d") + 1])["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("features", "FP32", [1, 2])
    assert np.array_equal(np.array(tensor["data"], np.float32), traffic().rows[1])


@pytest.mark.parametrize("days", [0, 276])
def test_days_are_within_the_data(days: int, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="--days must be 1 to 275"):
        demo.run(days=days, data_dir=tmp_path)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_speed_is_a_pace(speed: float, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="--speed"):
        demo.run(speed=speed, data_dir=tmp_path)


def test_one_demo_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with (tmp_path / "demo.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another demo runs"):
            demo.run(data_dir=tmp_path)


def test_signals_stop_it_and_what_was_before_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt), demo._interruptible():
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_configuration_is_one_that_children_can_read() -> None:
    assert msgspec.json.decode(msgspec.json.encode(RUNNING.config), type=Config) == RUNNING.config
