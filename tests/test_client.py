"""What the command line makes of a file of labels before it sends it."""

import json

import pytest

from serving.client import _label_lines
from serving.errors import BadRequest


def test_a_line_ends_where_json_says_so() -> None:
    odd = {"id": "a\u2028b\x85c", "label": 1}  # both are line ends to `str.splitlines`, and may stand in a string
    text = json.dumps(odd, ensure_ascii=False)
    assert [json.loads(line) for line in _label_lines(f"{text}\r\n\n  \n{text}\n")] == [odd, odd]
    assert [json.loads(line) for line in _label_lines(f" [{text}, {text}]")] == [odd, odd]


def test_what_is_no_json_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadRequest, match="the labels are not JSON"):
        _label_lines('[{"id": "a"')
