from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.alarm import Alarm


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
