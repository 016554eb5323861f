"""A folder that looks like the base image, and processes that see nothing but it: for machines without an engine.

The kernel's own means, which engines use as well: a mount namespace with a root of its own, and for a container
namespaces of processes and network too. /usr is this machine's, and what Python it has stands in /usr/local, as in the
image; whatever a step writes stays in the folder. It needs root, unshare and overlayfs.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.gateway import until

FOLDERS = ("data", "dev", "lent", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ETC = ("passwd", "group", "shadow", "gshadow", "login.defs", "hosts", "nsswitch.conf", "resolv.conf", "ld.so.cache",
       "ld.so.conf", "ld.so.conf.d", "ssl", "pip.conf", "ca-certificates.conf")  # fmt: skip
# How this machine reaches its package registry.
PASSED_ON = ("PIP_", "SSL_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"

MOUNTS = r"""
set -e
root=$1 python=$2 data=$3 lent=$4
mount --bind "$root" "$root"
mount --bind /usr "$root/usr"; mount -o remount,bind,ro "$root/usr"
mount -t overlay overlay -o "lowerdir=$python,upperdir=$root.upper,workdir=$root.work" "$root/usr/local"
[ "$python" = /usr/local ] || mount --bind "$python" "$root$python"  # it finds its library where it was built
[ -z "$lent" ] || { mount --bind "$lent" "$root/lent"; mount -o remount,bind,ro "$root/lent"; }
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=256m,noexec,nosuid,nodev tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
"""
READ_ONLY = r"""
mount --bind "$data" "$root/data"
mount -t sysfs -o ro sysfs "$root/sys"
ip link set lo up
mount --bind /dev/null "$root/usr/bin/dash"  # nothing may need sh; Ray starts the actors of nodes through bash
mount -o remount,ro "$root/usr/local"
mount -o remount,bind,ro "$root"
"""
ENTER = 'shift 4; exec chroot "$root" "$@"'


@dataclass(frozen=True)
class User:
    """Whom a process runs as. Those but root get no capability and can gain none."""

    uid: int = 0
    gid: int = 0

    @property
    def drop(self) -> list[str]:
        if not self.uid:
            return []
        return ["setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups", "--no-new-privs",
                "--bounding-set", "-all", "--inh-caps", "-all"]  # fmt: skip


class Root:
    """The folder. `run` is a RUN; `container` what an engine starts with --read-only --network none.

    `lent` is a folder of this machine that stands in /lent, to be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.lent = folder, ""
        self._python = Path(sys.base_prefix).resolve()
        for name in (*FOLDERS, str(self._python).lstrip("/")):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, target in LINKS.items():
            (folder / name).symlink_to(target)
        (folder / "etc").mkdir()
        for name in ETC:
            subprocess.run(["cp", "-aL", f"/etc/{name}", folder / "etc"], check=False, capture_output=True)
        for beside in (".upper", ".work"):
            Path(f"{folder}{beside}").mkdir(mode=0o755)
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        if settings.exists():
            (folder / "etc" / "pip.conf").write_text(settings.read_text())

    def run(self, command: str, variables: Mapping[str, str], cwd: str) -> "subprocess.CompletedProcess[str]":
        """A shell command as root, with this machine's network."""
        passed_on = {key: value for key, value in os.environ.items() if key.upper().startswith(PASSED_ON)}
        variables = {**passed_on, "PATH": PATH, "HOME": "/root", **variables}
        inside = _inside(["sh", "-c", command], variables, cwd, User())
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        arguments = self._arguments(MOUNTS + ENTER, self.folder / "data")
        return subprocess.run([*namespaces, *arguments, *inside], capture_output=True, text=True, check=True)

    @contextmanager
    def container(
        self, command: Sequence[str], variables: Mapping[str, str], cwd: str, user: User, data: Path, log: Path
    ) -> Iterator["Container"]:
        inside = _inside(command, variables, cwd, user)
        namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        arguments = self._arguments(MOUNTS + READ_ONLY + ENTER, data)
        with log.open("wb") as output:
            process = subprocess.Popen([*namespaces, *arguments, *inside], stdout=output, stderr=output)
        try:
            container = Container(process, variables, cwd, user, log)
            until(lambda: process.poll() is not None or container.root == self.folder, "the container's root")
            yield container
        finally:
            process.kill()  # and with it all processes of the container
            process.wait()

    def _arguments(self, script: str, data: Path) -> list[str]:
        return ["sh", "-c", script, "sh", str(self.folder), str(self._python), str(data), self.lent]


@dataclass(frozen=True)
class Container:
    """One that was started."""

    process: "subprocess.Popen[bytes]"
    variables: Mapping[str, str]
    cwd: str
    user: User
    log: Path

    @property
    def first(self) -> int:
        """The process that is number 1 inside; 0 while there is none."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else 0

    @property
    def root(self) -> Path | None:
        """What is / to it."""
        try:
            return Path(f"/proc/{self.first}/root").readlink()
        except OSError:
            return None

    def exec(self, *command: str, user: User | None = None) -> "subprocess.CompletedProcess[str]":
        """A further process in it."""
        enter = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--net", "--ipc", "--uts", "--root"]
        inside = _inside(command, self.variables, self.cwd, user or self.user)
        return subprocess.run([*enter, *inside], capture_output=True, text=True, check=False, timeout=60)

    def stop(self, timeout_s: float) -> int:
        """SIGTERM and the exit status."""
        os.kill(self.first, signal.SIGTERM)
        return self.process.wait(timeout_s)


def _inside(command: Sequence[str], variables: Mapping[str, str], cwd: str, user: User) -> list[str]:
    settings = [f"{key}={value}" for key, value in variables.items()]
    return ["/usr/bin/env", "-i", "-C", cwd, *settings, *user.drop, *command]
