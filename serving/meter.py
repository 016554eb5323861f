"""How loaded a replica is, for its autoscaler. The engine writes; whoever reads may do so in another thread."""

from serving.autoscaling import Load


class Meter:
    """What an engine did, in seconds of one clock.

    >>> meter = Meter(now=0.0)
    >>> meter.began(now=0.0)
    >>> meter.ended(rows=10, run_s=0.5)
    >>> meter.read(waiting_rows=30, now=1.0)
    Load(busy_ratio=0.5, queue_s=1.0, idle_s=1.0)
    """

    def __init__(self, now: float) -> None:
        self.asked = now  # when a request came last
        self._began: float | None = None  # the run that goes on
        self._busy_s, self._rows, self._runs = 0.0, 0, 0
        self._row_s = self._run_s = 0.0  # of late
        self._read, self._counted = (now, 0.0), (0.0, 0, 0)

    def began(self, now: float) -> None:
        self._began = now

    def ended(self, rows: int, run_s: float) -> None:
        self._began = None
        self._busy_s += run_s
        self._rows += rows
        self._runs += 1

    def read(self, waiting_rows: int, now: float) -> Load:
        """Since the last reading. The work of the next run is no queue: who keeps pace has that before him, too."""
        self._measure()
        began, busy_s = self._began, self._busy_s
        busy_s += 0.0 if began is None else max(0.0, now - began)
        before, busy_before_s = self._read
        self._read = now, busy_s
        ratio = (busy_s - busy_before_s) / (now - before) if now > before else 0.0
        queue_s = max(0.0, waiting_rows * self._row_s - self._run_s)
        return Load(min(max(ratio, 0.0), 1.0), queue_s, max(0.0, now - self.asked))

    def _measure(self) -> None:
        counted = self._busy_s, self._rows, self._runs
        busy_s, rows, runs = (new - old for new, old in zip(counted, self._counted, strict=True))
        if runs:
            self._counted = counted
            self._row_s, self._run_s = busy_s / max(rows, 1), busy_s / runs
