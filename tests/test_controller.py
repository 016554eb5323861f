"""What the controller tells Serve, without one: what counts as a change of replicas, and what a successor knows."""

from pathlib import Path

from serving.config import Config, Pool, dump, parse
from serving.controller import _for_replicas, _tell, _told
from serving.replica import application


def told(config: Config, pool: Pool) -> object:
    """The version that Serve knows a pool's replicas by: another one starts them anew."""
    bound = application(dump(_for_replicas(config)), "m", "1", pool, 1.0, 20.0)
    return bound._bound_deployment._version


def test_replicas_start_anew_for_what_they_are_made_of_and_for_nothing_else() -> None:
    config, pool = parse({"data_dir": "/d"}), Pool(cpu=0.5)
    same = told(config, pool)
    assert told(parse({"data_dir": "/d", "gateway": {"deadline_s": 3}, "monitors": {"tolerance": 0.1}}), pool) == same
    assert told(config, Pool(cpu=0.5, min=2)) == told(config, Pool(cpu=0.5, min=1, max=7)) == same
    for other in (Pool(cpu=1), Pool(cpu=0.5, threads=2), Pool(cpu=0.5, max_batch_rows=8), Pool(cpu=0.5, name="b")):
        assert told(config, other) != same
    assert told(parse({"data_dir": "/e"}), pool) != same


def test_a_successor_knows_what_serve_was_told(tmp_path: Path) -> None:
    config = parse({"data_dir": str(tmp_path)})
    assert _told(config) == {}
    config.run_dir.mkdir()
    deployed = {("m", "1", "cpu"): Pool(min=2), ("m", "2.0-rc", "gpu"): Pool(name="gpu", gpu=1.0)}
    _tell(config, deployed)
    assert _told(config) == deployed
