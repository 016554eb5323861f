"""docs/benchmarks.md out of what was measured. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loadtests.rounds import Cell, Medians

OURS = "gaugeway"


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    command: str
    date: str
    machine: str
    rounds: int
    seconds: int
    workloads: Mapping[str, str]
    """What each is, by its name."""
    cells: Mapping[Cell, Medians]
    ratios: Mapping[Cell, float]
    """Gaugeway's requests/s over a peer's, both of their bout."""
    bare_s: Mapping[str, float]
    """Median seconds of onnxruntime's call alone, by workload."""
    peers: Mapping[str, str]
    """How each was run, by its name."""
    versions: Mapping[str, Mapping[str, str]]
    missing: Mapping[str, str]
    """Why one was not measured, by its name, or by its name and the workload."""
    images: Mapping[str, str]
    """Plots by their title, as paths beside the page."""


def page(report: Report) -> str:
    return "\n".join([*_head(report), *_tables(report), *_plots(report), *_peers(report)]) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield (
        f"Written by `{report.command}` on {report.date}; what it did not produce is not here. Again: `make bench`, in"
        ' five minutes `make bench QUICK=1`, in part `make bench BENCH="--peers triton,gaugeway --rounds 3"`.'
    )
    yield ""
    yield (
        f"Each peer has a bout with Gaugeway, the two alone on the machine with one worker each: {report.rounds} rounds"
        f" of {report.seconds} s in which `wrk -t1` drives both in turn with the same request, beginning with the other"
        " in each round. Answers were held against onnxruntime's before. Shown are medians, Gaugeway's over all of its"
        " bouts. The load generator shares the machine with what is measured, so only ratios mean anything."
    )
    yield ""
    yield f"Machine: {report.machine}."
    yield ""
    yield (
        "*Gaugeway / it* is Gaugeway's requests/s over the peer's in their bout: above 1 Gaugeway is faster."
        " *CPU s* are seconds of CPU time per 100,000 answered requests, user and system, of all the peer's processes,"
        " then by what they do. A dash: too few answers in a round to tell that percentile."
    )


def _tables(report: Report) -> Iterator[str]:
    for workload, said in report.workloads.items():
        yield from ("", f"## {workload}", "", f"{said[0].upper()}{said[1:]}.")
        if workload in report.bare_s:
            yield f"onnxruntime's call alone takes {report.bare_s[workload] * 1e3:.3f} ms."
        counts = sorted({cell.connections for cell in report.cells if cell.workload == workload})
        for connections in counts:
            cells = {
                c.peer: m for c, m in report.cells.items() if (c.workload, c.connections) == (workload, connections)
            }
            ratios = {peer: report.ratios.get(Cell(workload, connections, peer)) for peer in cells}
            yield from _table(connections, cells, ratios)
            yield from _overhead(cells, connections, report.bare_s.get(workload))


def _table(connections: int, cells: Mapping[str, Medians], ratios: Mapping[str, float | None]) -> Iterator[str]:
    yield from ("", f"**{connections} connection{'s' * (connections > 1)}**", "")
    yield "| peer | requests/s | Gaugeway / it | p50 ms | p99 ms | failed | CPU s | by group |"
    yield "|---|---|---|---|---|---|---|---|"
    for peer, medians in sorted(cells.items(), key=lambda item: -item[1].requests_per_s):
        ratio = "-" if (known := ratios[peer]) is None else f"{known:.2f}"
        yield _row(
            peer,
            f"{medians.requests_per_s:,.0f}",
            ratio,
            _milliseconds(medians, 50, 3),
            _milliseconds(medians, 99, 2),
            str(medians.failed),
            f"{medians.total_cpu_s_per_100k:.1f}",
            _groups(medians.cpu_s_per_100k),
        )


def _milliseconds(medians: Medians, percent: int, digits: int) -> str:
    """Or a dash, where too few answers came to tell."""
    return f"{medians.latency_s[percent] * 1e3:.{digits}f}" if percent in medians.latency_s else "-"


def _groups(cpu: Mapping[str, float]) -> str:
    """
    >>> _groups({"server": 3.0, "model": 1.0, "idle": 0.01})
    'server 3.0, model 1.0'
    """
    large = sorted(((group, spent) for group, spent in cpu.items() if spent >= 0.05), key=lambda item: -item[1])
    return ", ".join(f"{group} {spent:.1f}" for group, spent in large)


def _overhead(cells: Mapping[str, Medians], connections: int, bare_s: float | None) -> Iterator[str]:
    """Over the bare call, where no request waits for another."""
    if connections == 1 and bare_s is not None and OURS in cells and 50 in cells[OURS].latency_s:
        over = cells[OURS].latency_s[50] - bare_s
        yield from ("", f"Gaugeway's p50 is {over * 1e3:.3f} ms above onnxruntime's call alone.")


def _plots(report: Report) -> Iterator[str]:
    for title, path in report.images.items():
        yield from ("", f"![{title}]({path})")


def _peers(report: Report) -> Iterator[str]:
    yield from ("", "## How each was run", "", "| peer | how | versions |", "|---|---|---|")
    for name, said in report.peers.items():
        yield _row(name, said, ", ".join(f"{package} {at}" for package, at in report.versions.get(name, {}).items()))
    if report.missing:
        yield from ("", "## Not measured", "", "| peer | why |", "|---|---|")
        yield from (_row(name, why) for name, why in report.missing.items())


def _row(*cells: str) -> str:
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _cell(text: str) -> str:
    """Without what would end the cell.

    >>> _cell("a|b" + chr(10) + "c")
    'a/b c'
    """
    return text.replace("|", "/").replace("\n", " ")
