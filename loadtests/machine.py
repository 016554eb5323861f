"""What machine this is, in words for the page. Linux only: /proc."""

import os
import platform
from pathlib import Path


def machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory_gib:.0f} GiB,"
        f" Linux {platform.release()}, Python {platform.python_version()}"
    )
