"""Whether it pays to wait for an answer awake: chosen by what both ways took of late.

A processor that fell asleep takes tens of microseconds until it runs again, in a virtual machine most of all; for a
model that answers in ten, that is most of what a lone client waits for. Looking again and again instead costs the
other processes of a busy machine their turn, and then takes longer. Neither can be known beforehand, so both are
tried: of each `ROUND` lone calls a few are waited for asleep, as many awake, and the rest in the way that was faster.

>>> choice = Choice()
>>> for _ in range(ROUND):
...     choice.took(80e-6 if choice.awake else 120e-6)
>>> choice.awake
True
"""

ROUND, TRIALS = 512, 12
GAIN = 0.9  # awake must take less than this part of the time


class Choice:
    """`awake` says how to wait for the next call, `took` how long that one was."""

    def __init__(self) -> None:
        self._asleep_s: list[float] = []
        self._awake_s: list[float] = []
        self._left = 0  # calls of this round, after its trials
        self.awake = False

    def took(self, seconds: float) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                self._begin()
        else:
            self._tried(seconds)

    def _begin(self) -> None:
        self._asleep_s, self._awake_s = [], []
        self.awake = False

    def _tried(self, seconds: float) -> None:
        """In turns, so that both see the same neighbours."""
        (self._awake_s if self.awake else self._asleep_s).append(seconds)
        if len(self._awake_s) < TRIALS:
            self.awake = not self.awake
        else:
            self.awake = _middle(self._awake_s) < GAIN * _middle(self._asleep_s)
            self._left = ROUND


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
