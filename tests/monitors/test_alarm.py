import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.alarm import Alarm
from monitors.drift.watch import Watch
from monitors.reference import marginal


@settings(deadline=None)
@given(crossings=st.lists(st.booleans()), quiet=st.integers(1, 5))
def test_it_is_on_while_one_of_the_last_blocks_raised_it(crossings: list[bool], quiet: int) -> None:
    alarm = Alarm()
    for number, crossed in enumerate(crossings):
        alarm.update(crossed, float(number), quiet)
        assert alarm.on == any(crossings[max(0, number - quiet + 1) : number + 1])


def test_since_is_the_first_block_that_raised_it() -> None:
    alarm = Alarm()
    for number, crossed in enumerate([True, False, True, False]):
        alarm.update(crossed, float(number), 3)
    assert alarm.since == 0.0


def test_evidence_that_gathers_again_holds_it() -> None:
    alarm, seen = Alarm(), []
    for number, log_e in enumerate([9.0, 0.1, 0.5, 0.9, 0.6, 0.2, 0.0]):
        alarm.update(log_e > 7, float(number), 3, log_e)
        seen.append(alarm.on)
    assert seen == [True] * 6 + [False]


def test_evidence_below_the_threshold_raises_none() -> None:
    alarm = Alarm()
    alarm.update(False, 1.0, 3, 5.0)
    assert (alarm.on, alarm.quiet) == (False, 1)


def test_a_drift_that_goes_on_slowly_holds_its_alarm_which_clears_once_it_is_over() -> None:
    """0.2 standard deviations, for which most stretches of ten blocks are too short to raise another."""
    law = marginal(np.random.default_rng(1).normal(size=20_000), "numeric")
    for seed in range(5):
        rng, watch, on = np.random.default_rng(seed), Watch(law, 0.02), []
        for block in range(150):
            shift = 1.0 if block < 10 else 0.2 if block < 100 else 0.0
            watch.judge(law.count(rng.normal(shift, size=200)), 60.0 * block, float(np.log(1000)), quiet_blocks=10)
            on.append(watch.past(0.0).since is not None)
        assert all(on[10:100]) and not any(on[130:])
