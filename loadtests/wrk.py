"""One run of wrk, the load generator in C: its script, and what it says at the end.

The script has no `request` function, so wrk encodes the request once and sends the same bytes for as long as it runs;
`done` writes what we want to know as one line of JSON, finer than the quantiles that wrk prints by itself.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99)
MARK = "RESULT "
LUA = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('{mark}{{"requests": %d, "duration_s": %.6f', summary.requests, summary.duration / 1e6))
    io.write(string.format(', "refused": %d', e.status))
    io.write(string.format(', "broken": %d, "latency_s": {{', e.connect + e.read + e.write + e.timeout))
    local comma = ""
    for _, p in ipairs({{ {percentiles} }}) do
        io.write(string.format('%s"%g": %.6f', comma, p, latency:percentile(p) / 1e6))
        comma = ", "
    end
    io.write("}}}}\\n")
end
"""


@dataclass(frozen=True)
class Run:
    """What came back; `latency_s` by percentile."""

    requests: int
    """Answered with success."""
    failed: int
    """Answered with a status of 400 or more, or broken off: connect, read, write, timeout."""
    duration_s: float
    latency_s: Mapping[float, float]

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_s


def script(body: Path, headers: Mapping[str, str]) -> str:
    """The Lua that wrk reads; `body` is the file that holds the bytes to send."""
    lines = (f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    percentiles = ", ".join(f"{p:g}" for p in PERCENTILES)
    return LUA.format(body=body, headers="\n".join(lines), mark=MARK, percentiles=percentiles)


def drive(url: str, script: Path, connections: int, seconds: int) -> Run:
    """Load `url` from one thread for so many seconds.

    Raises:
        subprocess.CalledProcessError: nobody listens there.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return parse(done.stdout)


def parse(text: str) -> Run:
    """What the script's `done` wrote.

    >>> line = 'RESULT {"requests": 10, "duration_s": 2, "refused": 3, "broken": 1, "latency_s": {"50": 0.001}}'
    >>> parse(line)
    Run(requests=7, failed=4, duration_s=2.0, latency_s={50.0: 0.001})
    """
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ValueError(f"wrk ended without a result: {text.strip()[-200:]!r}")
    said = json.loads(line.removeprefix(MARK))
    refused = int(said["refused"])
    latency_s = {float(percent): float(value) for percent, value in said["latency_s"].items()}
    return Run(said["requests"] - refused, refused + int(said["broken"]), float(said["duration_s"]), latency_s)
