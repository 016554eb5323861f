"""Which keys of the configuration take effect while it runs, and the revision of it that did. Pure but for one file.

A revision is the configuration that workers were started with, by number. The last one lies on disk, for a controller
or a node's actor that is started again: Ray gives those the configuration of the first start.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from serving.config import Config
from serving.errors import BadRequest

LIVE = ("gateway.", "monitors.")
FIXED = ("gateway.host", "gateway.port", "gateway.workers", "gateway.tls.certificate", "gateway.tls.key",
         "monitors.enabled")  # fmt: skip
CHOSEN = (("gateway", "port"), ("admin", "port"), ("metrics", "node_port"), ("metrics", "controller_port"))


class Revision(msgspec.Struct, frozen=True):
    """`config` is a whole configuration as JSON."""

    number: int
    config: str


def reload(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """The configuration to go on with, and the keys that change. Raises BadRequest, which names what cannot.

    `models` are not compared, since the registry has them; port 0 is any port, so also the one that was chosen, and no
    secret the one that was made.
    """
    wanted = _with_chosen(msgspec.structs.replace(wanted, data_dir=running.data_dir, models=running.models), running)
    keys = list(differing(running, wanted))
    if fixed := [key for key in keys if not key.startswith(LIVE) or key in FIXED]:
        raise BadRequest(
            f"{', '.join(fixed)}: cannot change while it runs, and nothing was changed; stop and start it to change"
            f" {'them' if len(fixed) > 1 else 'it'}"
        )
    return wanted, keys


def differing(before: msgspec.Struct, after: msgspec.Struct, path: str = "") -> Iterator[str]:
    """The keys of two trees that have different values, as the documents name them.

    >>> from serving.config import parse
    >>> list(differing(Config(), parse({"gateway": {"port": 1}})))
    ['gateway.port']
    """
    for name in before.__struct_fields__:
        one, other = getattr(before, name), getattr(after, name)
        if isinstance(one, msgspec.Struct) and isinstance(other, msgspec.Struct):
            yield from differing(one, other, f"{path}{name}.")
        elif one != other:
            yield f"{path}{name}"


def last(run_dir: Path) -> Revision | None:
    """The revision that this run of the gateway was changed to, if it was."""
    path = run_dir / "revision.json"
    return msgspec.json.decode(path.read_bytes(), type=Revision) if path.exists() else None


def keep(run_dir: Path, revision: Revision) -> None:
    staged = run_dir / "revision.new"
    staged.write_bytes(msgspec.json.encode(revision))
    staged.rename(run_dir / "revision.json")


def forget(run_dir: Path) -> None:
    (run_dir / "revision.json").unlink(missing_ok=True)


def _with_chosen(wanted: Config, running: Config) -> Config:
    if not wanted.channel.secret:
        channel = msgspec.structs.replace(wanted.channel, secret=running.channel.secret)
        wanted = msgspec.structs.replace(wanted, channel=channel)
    for section, key in CHOSEN:
        part = getattr(wanted, section)
        if getattr(part, key) == 0:
            chosen = msgspec.structs.replace(part, **{key: getattr(getattr(running, section), key)})
            wanted = msgspec.structs.replace(wanted, **{section: chosen})
    return wanted
