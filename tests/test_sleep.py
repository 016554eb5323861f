"""Asleep or dead: what the last replica said before it went."""

from serving.sleep import Sleep


def test_a_version_may_sleep_only_if_it_is_allowed_to() -> None:
    sleep = Sleep()
    assert not sleep.possible
    sleep.allowed = True
    assert sleep.possible


def test_a_death_ends_sleep_until_a_replica_comes() -> None:
    sleep = Sleep()
    sleep.allowed = True
    sleep.came(1.0)
    sleep.left(goodbye=False)
    assert not sleep.possible
    sleep.came(2.0)
    sleep.left(goodbye=True)
    assert sleep.possible


def test_a_cold_start_lasts_from_the_first_that_waited() -> None:
    told: list[float] = []
    sleep = Sleep(told.append)
    for now in (10.0, 11.0, 12.0):
        sleep.waits(now)
    sleep.came(14.0)
    sleep.came(15.0)  # a second replica ends nobody's wait
    assert told == [4.0]
