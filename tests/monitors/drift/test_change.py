import numpy as np
import pytest

from monitors.drift.change import Onset, locate, starts
from monitors.drift.e_detector import CLIPS, Bettor, accumulated
from monitors.drift.watch import Watch
from monitors.marginal import Marginal
from monitors.reference import marginal

ENDS = [60.0 * (k + 1) for k in range(30)]


def law(seed: int = 1) -> Marginal:
    return marginal(np.random.default_rng(seed).normal(size=10_000), "numeric")


def located(changed: int, shift: float, seed: int, blocks: int = 30) -> Onset:
    rng, reference = np.random.default_rng(seed), law()
    counts = [reference.count(rng.normal(shift * (k >= changed), size=300)) for k in range(blocks)]
    return locate(reference, np.array(counts), ENDS[:blocks])


@pytest.mark.parametrize(("shift", "within"), [(0.3, 2), (1.0, 0)])
def test_a_change_is_found_where_it_was_planted(shift: float, within: int) -> None:
    found = [located(18, shift, seed) for seed in range(40)]
    away = [abs(onset.at - 60.0 * 18) / 60.0 for onset in found]
    assert np.median(away) == 0
    assert np.quantile(away, 0.9) <= within


def test_the_time_lies_between_the_earliest_and_the_latest_and_they_hold_the_truth() -> None:
    found = [located(18, 0.3, seed) for seed in range(60)]
    assert all(onset.earliest <= onset.at <= onset.latest for onset in found)
    assert sum(onset.earliest <= 60.0 * 18 <= onset.latest for onset in found) >= 54  # 3 nats hold 19 in 20 or more


def test_what_was_there_from_the_first_kept_block_on_is_dated_there() -> None:
    assert located(0, 1.0, 3).at == 0.0
    assert located(0, 1.0, 3, blocks=1).at == 60.0  # of one block alone the length is not known


def test_clustered_rows_make_the_time_less_sure() -> None:
    rng, reference = np.random.default_rng(2), law()
    counts = np.array([reference.count(rng.normal(0.4 * (k >= 18), size=300)) for k in range(30)])
    loose, sharp = locate(reference, counts, ENDS, 20.0), locate(reference, counts, ENDS)
    assert loose.latest - loose.earliest > sharp.latest - sharp.earliest


def test_blocks_that_were_joined_begin_where_the_one_before_ended() -> None:
    assert starts([10.0, 20.0, 50.0]) == [0.0, 10.0, 20.0]


THRESHOLD = float(np.log(1_000))


def estimates(shift: float, streams: int, block_rows: int) -> tuple[list[float], list[float]]:
    """Blocks between the true change, after 20 quiet blocks, and two estimates of it at the first alarm.

    The likeliest block, and the one at which the evidence of the largest clip began to stay above 0.
    """
    likeliest, last_zero = [], []
    for seed in range(streams):
        rng, watch, path = np.random.default_rng(seed), Watch(law(), 0.02), [np.zeros(len(CLIPS))]
        bettor, s = Bettor(watch.law.theta, 0.02 + watch.law.error), np.zeros(len(CLIPS))
        for block in range(80):
            counts = watch.law.count(rng.normal(shift * (block >= 20), size=block_rows))
            s = accumulated(s, bettor.update(counts))
            path.append(s)
            watch.judge(counts, 60.0 * (block + 1), THRESHOLD, 10)
            if watch.verdict(THRESHOLD).alarm:
                break
        onset = watch.past(THRESHOLD).onset
        if onset is not None and block >= 20:
            clip = int(np.argmax(s))
            zero = max(k for k, one in enumerate(path) if one[clip] <= 0)
            likeliest.append(onset.at / 60 - 20)
            last_zero.append(zero - 20.0)
    return likeliest, last_zero


@pytest.mark.parametrize(("shift", "block_rows"), [(0.3, 200), (0.5, 50), (1.0, 50)])
def test_the_likeliest_block_is_nearer_than_the_last_zero_of_the_evidence(shift: float, block_rows: int) -> None:
    likeliest, last_zero = (np.abs(away) for away in estimates(shift, 20, block_rows))
    assert len(likeliest) > 17
    assert likeliest.mean() < last_zero.mean()
