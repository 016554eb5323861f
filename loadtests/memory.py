"""What an idle gateway takes in memory, process by process, and what versions that wait at zero replicas add to it.

``python -m loadtests.memory --versions 100 --out docs/memory.md``. Linux only: /proc.

Three numbers a process: *resident* counts every page it has mapped, so pages that processes share count in each;
*proportional* gives each sharer its part; *own* are the pages that nobody shares, which its end would free. The bound
is held against the first, which cannot flatter.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from loadtests import soak
from loadtests.machine import machine
from loadtests.processes import Seen, family, seen
from serving import config
from serving.manifest import MODEL_FILE
from serving.repository import Repository

MiB = 2**20
MODEL = "boosting"
MOST_TOGETHER_BYTES = 1_200_000_000
MOST_A_VERSION_BYTES = 50_000
GAUGEWAY = ("controller", "node actor", "gateway worker", "sidecar", "replica")
SETTLES_S, LOOKS_S, DEPLOYS_S = 40.0, 2.0, 120.0
STILL = 5  # looks in a row that differ by less than QUIET_BYTES: what had to be imported or freed has been
QUIET_BYTES = MiB

# The first pattern that a command line matches says what the process is for.
ROLES = (
    (r"ray::(ControllerActor|Controller)\b", "controller"),
    (r"ray::(NodeActor|Node)\b", "node actor"),
    (r"serving\.worker", "gateway worker"),
    (r"monitors\.sidecar", "sidecar"),
    (r"ray::ServeReplica", "replica"),
    (r"serving\.cli", "`gaugeway up`"),
    (r"ray::ServeController", "Ray: Serve's controller"),
    (r"gcs_server", "Ray: control store (gcs_server)"),
    (r"raylet/raylet", "Ray: raylet"),
    (r"", "Ray: agents, log monitor, idle workers"),
)


@dataclass(frozen=True)
class Memory:
    """Of one process or several added up, in bytes."""

    resident: int
    proportional: int
    own: int

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.resident + other.resident, self.proportional + other.proportional, self.own + other.own)


NOTHING = Memory(0, 0, 0)


@dataclass(frozen=True)
class Found:
    """An idle gateway, and its controller before and after `versions` more were named at zero replicas."""

    roles: dict[str, Memory]
    versions: int
    before: dict[str, Memory]
    after: dict[str, Memory]

    @property
    def together(self) -> Memory:
        return sum((self.roles[role] for role in GAUGEWAY), NOTHING)

    def added(self, role: str) -> float:
        """Bytes a version."""
        return (self.after[role].own - self.before[role].own) / max(1, self.versions)

    @property
    def broken(self) -> list[str]:
        """A sentence for each bound that does not hold."""
        said = []
        if self.together.resident > MOST_TOGETHER_BYTES:
            said.append(f"{', '.join(GAUGEWAY)} take {self.together.resident / 1e6:,.0f} MB together, not 1,200")
        if self.added("controller") > MOST_A_VERSION_BYTES:
            said.append(f"a version at zero adds {self.added('controller') / 1e3:,.1f} kB to the controller, not 50")
        return said


def role(command: str) -> str:
    """
    >>> role("ray::Node.status"), role("ray::ServeController.listen"), role("python -m serving.worker run/config.json")
    ('node actor', "Ray: Serve's controller", 'gateway worker')
    """
    return next(name for pattern, name in ROLES if re.search(pattern, command))


def parse(rollup: str) -> Memory:
    """Of ``/proc/PID/smaps_rollup``.

    >>> parse("55d0-7ffd ---p [rollup]\\nRss: 9 kB\\nPss: 5 kB\\nPrivate_Clean: 1 kB\\nPrivate_Dirty: 3 kB\\n")
    Memory(resident=9216, proportional=5120, own=4096)
    """
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", rollup, re.MULTILINE)}
    return Memory(kib["Rss"] * 1024, kib["Pss"] * 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024)


def by_role(processes: Iterable[Seen]) -> dict[str, Memory]:
    """Those that end meanwhile are left out."""
    found: dict[str, Memory] = {}
    for process in processes:
        try:
            memory = parse(Path(f"/proc/{process.id}/smaps_rollup").read_text())
        except (OSError, KeyError):  # a process that has just ended has none, or an empty one
            continue
        found[role(process.command)] = found.get(role(process.command), NOTHING) + memory
    return found


def settled(look: Callable[[], dict[str, Memory]], wait: Callable[[float], None] = time.sleep) -> dict[str, Memory]:
    """The first look after `STILL` in which no process of ours grew or shrank, or the last within SETTLES_S."""
    before, still = look(), 0
    for _ in range(int(SETTLES_S / LOOKS_S)):
        wait(LOOKS_S)
        now = look()
        moved = max(abs(now[one].own - before[one].own) if one in before else QUIET_BYTES for one in GAUGEWAY)
        still = still + 1 if moved < QUIET_BYTES else 0
        if still == STILL:
            return now
        before = now
    return before


def measure(folder: Path, versions: int) -> Found:
    """A gateway of its own, with one small model and every monitor on."""
    console = Console(stderr=True)
    with soak.gaugeway(folder) as (_, server):
        settings = config.load(folder / "gaugeway.toml", {})

        def look() -> dict[str, Memory]:
            return by_role(family(server.id, seen(), {}))

        console.print("waiting until it idles …")
        idle = settled(look)
        _name_at_zero(Repository.of(settings), versions)
        console.print(f"{versions} versions at zero …")
        _until_planned(settings, versions + 1)
        return Found(idle, versions, idle, settled(look))


def _name_at_zero(repository: Repository, versions: int) -> None:
    """The same files under other numbers: they were validated once, and what the controller keeps is the same."""
    first = repository.manifest(MODEL, "1")
    files = {name: repository.read(first, name) for name in first.files}
    assert MODEL_FILE in files
    numbers = [str(n) for n in range(2, versions + 2)]
    for number in numbers:
        repository.publish(msgspec.structs.replace(first, version=number), files)
    at_zero = config.Version(replicas=config.Replicas(min=0, max=1))
    model = config.Model(weights={"1": 1.0}, versions={number: at_zero for number in numbers})
    repository.set_model(MODEL, model, by="loadtests.memory", why="versions that idle at zero")


def _until_planned(settings: config.Config, versions: int) -> None:
    url = f"http://{settings.admin.host}:{settings.admin.port}/admin/v1/status"
    end = time.monotonic() + DEPLOYS_S
    while time.monotonic() < end:
        with urllib.request.urlopen(url, timeout=30) as response:
            found: dict[str, Any] = json.load(response)
        planned = found["models"][MODEL]["versions"]
        if len(planned) == versions and all(one["state"] == "RUNNING" for one in planned.values()):
            return
        time.sleep(LOOKS_S)
    raise RuntimeError(f"not all {versions} versions were deployed within {DEPLOYS_S:g} s: {found['problem']}")


def page(found: Found, told: str) -> str:
    """The document."""
    lines = [
        "# Memory",
        "",
        f"Written by `python -m loadtests.memory {told}` on {machine()}. *Resident* counts every page a process has"
        " mapped, so pages of libraries that processes share count in each of them; *proportional* gives each sharer"
        " its part, other programs of the machine included; *own* are the pages that its end would free.",
        "",
        "## An idle gateway with one small model (100 trees), monitors on",
        "",
        "| process | resident, MB | proportional, MB | own, MB |",
        "|---|---|---|---|",
        *(_row(name, found.roles[name]) for name in GAUGEWAY),
        _row("**these together** (bound: 1,200)", found.together),
        *(_row(name, memory) for name, memory in sorted(found.roles.items()) if name not in GAUGEWAY),
        _row("**all**", sum(found.roles.values(), NOTHING)),
        "",
        f"## {found.versions} more versions that idle at zero replicas",
        "",
        "| process | own before, MB | after, MB | a version, kB |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for name in ("controller", "gateway worker", "sidecar", "Ray: Serve's controller"):
        sizes = [f"{one[name].own / 1e6:.1f}" for one in (found.before, found.after)]
        lines.append(f"| {name} | {' | '.join(sizes)} | {found.added(name) / 1e3:.1f} |")
    return "\n".join(lines) + "\n"


def _row(name: str, memory: Memory) -> str:
    return f"| {name} | {memory.resident / 1e6:.0f} | {memory.proportional / 1e6:.0f} | {memory.own / 1e6:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.memory", description=__doc__)
    parser.add_argument("--versions", type=int, default=100, help="that idle at zero replicas")
    parser.add_argument("--out", type=Path, default=Path("docs/memory.md"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.versions)
    arguments.out.write_text(page(found, f"--versions {arguments.versions}"))
    print(arguments.out.read_text())
    for sentence in found.broken:
        Console(stderr=True).print(sentence, style="bold red")
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
