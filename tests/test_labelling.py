import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving.codec import Batch, Expander, Label, Lines, Refused
from serving.codec.compression import PIECE_BYTES
from serving.codec.labels import BATCH_LABELS, Place
from serving.labelling import MAX_REFUSED, Intake, Outcome


def test_batches_add_up_and_what_is_refused_keeps_its_place() -> None:
    outcome, label = Outcome(), Label("a", 1, 0.0)
    outcome.add(
        Batch([label, label], [Place(0, 1), Place(2, 4)], [Refused(1, "no JSON", 2)]),
        {"joined": 1, "parked": 0, "unknown": 0, "doubled": 1, "refused": [{"index": 1, "reason": "not 0 or 1"}]},
    )
    outcome.add(Batch([label], [Place(3)], []), {"joined": 0, "parked": 1, "unknown": 0, "refused": []})
    found = outcome.document()
    assert (found["joined"], found["parked"], found["doubled"], found["late"]) == (1, 1, 1, 0)
    assert found["refused"] == [
        {"index": 1, "reason": "no JSON", "line": 2},
        {"index": 2, "reason": "not 0 or 1", "line": 4},
    ]
    assert found["refused_total"] == 2
    assert outcome.each() == {"joined": 1, "parked": 1, "unknown": 0, "refused": 2}


def test_an_answer_names_no_more_than_the_first_refused_and_counts_all() -> None:
    outcome = Outcome()
    for first in range(0, 3 * MAX_REFUSED, 700):
        outcome.add(Batch([], [], [Refused(first + k, "no") for k in range(700)]), {})
    found = outcome.document()
    assert [one["index"] for one in found["refused"]] == list(range(MAX_REFUSED))
    assert found["refused_total"] == 3500


@pytest.mark.parametrize(
    ("body", "refused", "least"),
    [
        (b"\n" * (4 * PIECE_BYTES - 3000) + b"{}\n" * 1000, 1000, 4),
        (b"1\n" * (3 * BATCH_LABELS), 3 * BATCH_LABELS, 3),
    ],
    ids=["pieces", "batches"],
)
def test_whoever_waits_has_a_turn_between_pieces_and_batches_without_a_label(
    body: bytes, refused: int, least: int
) -> None:
    """Blank and refused lines alone, so that nothing is waited for."""
    turns = 0

    async def main() -> None:
        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def parts() -> AsyncIterator[bytes]:
            yield body

        async def submit(labels: list[dict[str, Any]]) -> dict[str, Any]:
            raise AssertionError("there is none")

        waiting, intake = asyncio.create_task(others()), Intake("m", submit)
        await intake.stream(parts(), Expander(None, 0), Lines(0.0))
        waiting.cancel()
        assert intake.outcome.refused == refused

    asyncio.run(main())
    assert turns >= least
