"""Two deaths on two links are poison, for a time; one survival is innocence."""

import numpy as np

from serving.suspects import POISON_S, Suspects


def test_two_deaths_on_two_links_are_poison_until_it_is_forgotten() -> None:
    suspects, x, y = Suspects(), [np.ones(3)], [np.zeros(3)]
    first, second = object(), object()
    assert not suspects
    suspects.died(x, first, 0.0)
    suspects.died([np.ones(3)], first, 0.0)  # the same bytes in another request of the same batch
    assert suspects and not suspects.poisonous(x, 1.0)
    suspects.died(x, second, 1.0)
    assert suspects.poisonous([np.ones(3)], 2.0) and not suspects.poisonous(y, 2.0)
    assert not suspects.poisonous(x, 1.0 + POISON_S)
    suspects.forget(1.0 + POISON_S)
    assert not suspects


def test_who_survives_is_innocent_and_texts_differ_by_what_they_say() -> None:
    suspects = Suspects()
    a, b = ([np.array([text], object)] for text in (b"a", b"b"))
    for link in (object(), object()):
        suspects.died(a, link, 0.0)
        suspects.died(b, link, 0.0)
    suspects.survived(a)
    assert suspects.poisonous(b, 1.0) and not suspects.poisonous(a, 1.0)


def test_a_death_long_ago_costs_nobody_a_look() -> None:
    suspects, x = Suspects(), [np.ones(3)]
    suspects.died(x, object(), 0.0)
    assert not suspects.poisonous([np.zeros(3)], POISON_S - 1.0) and suspects
    assert not suspects.poisonous([np.zeros(3)], POISON_S)  # whoever comes next, though nobody dies any more
    assert not suspects
