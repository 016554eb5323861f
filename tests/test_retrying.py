"""The budget of retried batches."""

from serving.retrying import RetryBudget


def test_retries_have_a_budget_of_batches() -> None:
    budget = RetryBudget(ratio=0.2, minimum=3, window_s=10)
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    for _ in range(25):
        budget.sent(1.0)
    assert [budget.take(1.0) for _ in range(3)] == [True, True, False]
    assert [budget.take(13.0) for _ in range(4)] == [True, True, True, False]
