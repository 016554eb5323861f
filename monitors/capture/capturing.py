"""The sidecar's thread that captures: it begins when a model is captured, and otherwise only lets captures expire.

Whatever happens to it, counting goes on: the two share the rings and nothing else.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from monitors.capture.figures import Figures
from serving.config import Capture

if TYPE_CHECKING:
    from monitors.capture.tap import Tap

log = logging.getLogger("gaugeway.capture")

POLL_S = 1.0
TIDY_S = 5.0  # between two checkpoints, which sync what was written
LAST_S = 5.0  # for what is left in the rings at the end


class Capturing:
    """Captures what lies in `rings` below `root` while `settings`, None where not known yet, name a captured model."""

    def __init__(self, rings: Path, root: Path, settings: Callable[[], Mapping[str, Capture] | None]) -> None:
        self._rings, self._root, self._settings = rings, root, settings
        self._tap: Tap | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._tidied = -TIDY_S
        self._following = False
        self._complaint = ""
        self.figures = Figures()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Capture what is left, seal, and end."""
        self._stopping.set()
        self._thread.join(2 * LAST_S)

    def _run(self) -> None:
        more = False
        while not self._stopping.wait(0.0 if more else POLL_S):
            more = self._attempt(self._step)
        until = time.monotonic() + LAST_S
        while self._attempt(self._step) and time.monotonic() < until:
            pass
        self._attempt(self._end)

    def _attempt(self, step: Callable[[], bool]) -> bool:
        """Whatever goes wrong is said once; meanwhile the rows wait in the rings."""
        try:
            more = step()
            self._complaint = ""
            return more
        except Exception as error:  # a full disk, rows that arrow does not take: the edge of capturing
            if self._complaint != (complaint := repr(error)):
                self._complaint = complaint
                log.exception("nothing is captured; trying again")
            return False

    def _step(self) -> bool:
        if (settings := self._settings()) is None:
            return False
        wanted = any(said.enabled for said in settings.values())
        if self._tap is None:
            if not wanted and not self._root.exists():
                return False
            self._tap = _tap(self._rings, self._root)
        now = time.time()
        try:
            return self._follow(self._tap, wanted, now)
        finally:  # a full disk gets room
            if time.monotonic() - self._tidied >= TIDY_S:
                self._tidied = time.monotonic()
                self._tap.tidy(settings, now)
            self.figures = self._tap.figures(now)

    def _follow(self, tap: "Tap", wanted: bool, now: float) -> bool:
        """Once nothing is captured any more, what was written until then is still read."""
        more = (wanted or self._following) and tap.poll(now)
        self._following = wanted or more
        if not self._following:
            tap.rest()
        return more

    def _end(self) -> bool:
        if self._tap is not None:
            self._tap.tidy(self._settings() or {}, time.time())
            self._tap.close()
        return False


def _tap(rings: Path, root: Path) -> "Tap":
    from monitors.capture.tap import Tap

    return Tap(rings, root)
