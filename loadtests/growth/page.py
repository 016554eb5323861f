"""The page of what was measured: a table and a plot for each axis. Pure."""

import math
import os
import platform
from dataclasses import dataclass

from loadtests.growth.cases import AXES, Case

WIDTH, HEIGHT, MARGIN = 560, 200, 50


@dataclass(frozen=True)
class Idle:
    """Of a worker that nobody asks: share of a core, and its own memory."""

    cpu_ratio: float
    memory_bytes: int


@dataclass(frozen=True)
class Point:
    """The worker's processor time a request: median of the rounds, then their least and most."""

    case: Case
    request_cpu_s: float
    extremes_s: tuple[float, float]
    idle: Idle | None = None


def page(points: list[Point], command: str) -> str:
    lines = [
        "# Growth",
        "",
        f"Written by `python -m loadtests.growth {command}` on {os.cpu_count()} cores, {platform.machine()},"
        f" Python {platform.python_version()}; other work ran on the machine. Each size is a gateway worker of its own,"
        " driven by `wrk` from 8 connections in interleaved rounds; binary rows, records of all features on."
        " Told is the worker's processor time a request, its median and in brackets the least and most of the rounds.",
    ]
    for axis, (what, _) in AXES.items():
        mine = [point for point in points if point.case.axis == axis]
        lines += ["", f"## {axis.capitalize()}: {what}", "", *_table(axis, mine)]
        lines += ["", f"![Processor time a request by {axis}](images/growth-{axis}.svg)"]
    return "\n".join(lines) + "\n"


def _table(axis: str, points: list[Point]) -> list[str]:
    idle = any(point.idle for point in points)
    head = [axis, "µs a request", "to the smallest", *(["µs a row"] if axis == "rows" else [])]
    head += ["idle, % of a core", "memory, MiB"] if idle else []
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for point in points:
        low, high = point.extremes_s
        cells = [f"{point.case.size:,}", f"{point.request_cpu_s * 1e6:.1f} ({low * 1e6:.1f} to {high * 1e6:.1f})"]
        cells += [f"{point.request_cpu_s / points[0].request_cpu_s:.2f}"]
        cells += [f"{point.request_cpu_s * 1e6 / point.case.rows:.2f}"] if axis == "rows" else []
        if point.idle:
            cells += [f"{point.idle.cpu_ratio * 100:.1f}", f"{point.idle.memory_bytes / 2**20:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def plot(points: list[Point]) -> str:
    """An SVG of one axis: sizes on a logarithmic scale, microseconds from 0, a bar from the least to the most."""
    top = _round_up(max(point.extremes_s[1] for point in points) * 1e6)
    last = math.log10(points[-1].case.size)

    def x(point: Point) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * math.log10(point.case.size) / last

    def y(seconds: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * seconds * 1e6 / top

    parts = [_frame(f"µs of processor a request, by {points[0].case.axis}")]
    parts += [_level(y(us / 1e6), f"{us:g}") for us in (0.0, top / 2, top)]
    for point in points:
        low, high = point.extremes_s
        parts += [
            f'<path d="M{x(point):.1f} {y(low):.1f}V{y(high):.1f}" stroke="#d62728"/>',
            f'<circle cx="{x(point):.1f}" cy="{y(point.request_cpu_s):.1f}" r="3" fill="#d62728"/>',
            f'<text x="{x(point):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{point.case.size:,}</text>',
        ]
    line = " ".join(f"{x(point):.1f},{y(point.request_cpu_s):.1f}" for point in points)
    return "\n".join([*parts, f'<polyline points="{line}" fill="none" stroke="#d62728"/>', "</svg>"]) + "\n"


def _frame(title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif"'
        f' font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text x="{MARGIN}" y="20">{title}</text>'
    )


def _level(y: float, text: str) -> str:
    return (
        f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>'
        f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten.

    >>> [_round_up(value) for value in (71.3, 200, 1001)]
    [100.0, 200.0, 2000.0]
    """
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
