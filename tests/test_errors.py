import re

from serving import errors
from serving.errors import GaugewayError, UnknownModel, UnknownVersion


def tree(of: type[GaugewayError]) -> set[type[GaugewayError]]:
    return {of}.union(*(tree(child) for child in of.__subclasses__() if child.__module__ == errors.__name__))


def test_the_drawn_tree_is_the_tree() -> None:
    assert errors.__doc__
    drawn = set(re.findall(r"^[ │├└─]*([A-Z]\w+)", errors.__doc__, re.MULTILINE)) & set(dir(errors))
    assert drawn == {kind.__name__ for kind in tree(GaugewayError)}


def test_the_drawn_statuses_are_the_statuses() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+) +(\d{3})\b", errors.__doc__, re.MULTILINE)
    assert len(drawn) > 10
    assert {name: int(status) for name, status in drawn} == {name: getattr(errors, name).status for name, _ in drawn}


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    assert str(UnknownVersion("fraud", "7", ["5", "3"])) == "model 'fraud' has no version '7'; it has '3', '5'"
    assert str(UnknownVersion("fraud", "7")) == "model 'fraud' has no version '7'; it has none"
    assert str(UnknownModel("frad", ["fraud"])) == "unknown model 'frad'; there are 'fraud'"
    assert str(UnknownModel("frad")) == "unknown model 'frad'; no model is served"


def test_long_lists_are_cut() -> None:
    message = str(UnknownModel("m", (f"model-{i:04}" for i in range(5000))))
    assert len(message) < 500 and "and 4990 more" in message
