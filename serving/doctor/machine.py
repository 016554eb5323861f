"""The machine: processors, memory, shared memory, descriptors, clock."""

import ctypes
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from serving.doctor.finding import Finding, fault, ok, warning

GIB, MIB = 2**30, 2**20
MEMORY_BYTES = int(1.5 * GIB)  # Ray, the control plane, one worker, the sidecar and a small model
SHM_BYTES = 100 * MIB  # of which Ray's object store takes 80
DESCRIPTORS, FEW_DESCRIPTORS = 1024, 4096  # half of them may be connections
CLOCK_ERROR_S = 1.0
_TIMEX_BYTES, _MAXERROR, _STATUS, _UNSYNCHRONIZED = 256, 24, 40, 0x40


@dataclass(frozen=True)
class Facts:
    """`clock_error_s`: at most so far from true time, by the kernel; None where nobody sets or may read it."""

    cpus: float
    memory_bytes: int
    shm_bytes: int
    descriptors: int
    clock_error_s: float | None


def gather() -> Facts:
    return Facts(_cpus(), _memory_bytes(), _free_bytes("/dev/shm"),
                 resource.getrlimit(resource.RLIMIT_NOFILE)[0], _clock_error_s())  # fmt: skip


def check(facts: Facts) -> list[Finding]:
    return [_processors(facts), _memory(facts), _shared_memory(facts), _descriptors(facts), _clock(facts)]


def _processors(facts: Facts) -> Finding:
    found = f"{facts.cpus:g} processors"
    if facts.cpus < 2:
        return warning("processors", found, "gateway and replicas share them: give this machine or container 2 or more")
    return ok("processors", found)


def _memory(facts: Facts) -> Finding:
    found = f"{facts.memory_bytes / GIB:.1f} GiB available"
    if facts.memory_bytes < MEMORY_BYTES:
        return warning("memory", found, f"have {MEMORY_BYTES / GIB:g} GiB and what the models need, or"
                       " processes are killed; a container: --memory")  # fmt: skip
    return ok("memory", found)


def _shared_memory(facts: Facts) -> Finding:
    found = f"{facts.shm_bytes / MIB:.0f} MiB free in /dev/shm"
    if facts.shm_bytes < SHM_BYTES:
        return fault("shared memory", found, "Ray's object store lies there: mount -o remount,size=256m /dev/shm;"
                     " a container: --shm-size=256m")  # fmt: skip
    return ok("shared memory", found)


def _descriptors(facts: Facts) -> Finding:
    found, remedy = f"{facts.descriptors} a process", "ulimit -n 65536; a systemd unit: LimitNOFILE=65536"
    if facts.descriptors < DESCRIPTORS:
        return fault("descriptors", f"{found}, of which half may be connections", remedy)
    if facts.descriptors < FEW_DESCRIPTORS:
        return warning("descriptors", f"{found}, of which half may be connections", remedy)
    return ok("descriptors", found)


def _clock(facts: Facts) -> Finding:
    if facts.clock_error_s is None:
        return warning("clock", "nobody keeps this machine's clock right, or this container may not see who does",
                       "timedatectl set-ntp true (blocks and labels go by it)")  # fmt: skip
    found = f"within {facts.clock_error_s:.3f} s of the time server"
    if facts.clock_error_s > CLOCK_ERROR_S:
        return fault("clock", found, "chronyc tracking, then chronyc makestep: blocks and labels go by the clock")
    return ok("clock", found)


def _cpus() -> float:
    """As many as this process may use: by affinity, and by the quota of its control group."""
    allowed = float(len(os.sched_getaffinity(0)))
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return min(allowed, int(quota) / int(period)) if quota.isdigit() else allowed


def _memory_bytes() -> int:
    """Available on the machine, and below the limit of the control group."""
    lines = dict(line.split(":") for line in _read("/proc/meminfo").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    return min(available, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else available


def _free_bytes(folder: str) -> int:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize


def _clock_error_s() -> float | None:
    """What adjtimex(2) says, asked without a change."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    if int.from_bytes(timex.raw[_STATUS : _STATUS + 4], "little") & _UNSYNCHRONIZED:
        return None
    return int.from_bytes(timex.raw[_MAXERROR : _MAXERROR + 8], "little") / 1e6


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
