import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors.fingerprints import LONGEST, fingerprints
from serving.protocol import Array

texts = st.lists(st.text(max_size=LONGEST + 3).map(lambda text: text.rstrip("\0")), min_size=1, max_size=8)


def objects(values: list[str] | list[bytes]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


@given(texts)
def test_a_text_has_one_fingerprint_in_any_array(values: list[str]) -> None:
    data = [value.encode(errors="replace") for value in values]
    found = fingerprints(objects(data)).tolist()
    assert fingerprints(objects(values)).tolist() == found
    assert fingerprints(np.array([*data, b"x" * 200], "S"))[:-1].tolist() == found
    assert [fingerprints(np.array([one], "S"))[0] for one in data] == found


def test_texts_that_differ_have_different_ones() -> None:
    values = [f"{prefix}{n}" for prefix in ("", "a", "customer ", "z" * 60, "long " * 20) for n in range(20_000)]
    assert len(set(fingerprints(objects(values)).tolist())) == len(values)


def test_they_have_the_shape_of_the_texts() -> None:
    pair = np.array([[b"a", b""], [b"b", b"a"]])
    found = fingerprints(pair)
    assert found.shape == (2, 2) and found[0, 0] == found[1, 1] != found[0, 1]
    assert fingerprints(pair[:, 1]).tolist() == found[:, 1].tolist()
    assert fingerprints(np.empty((0, 3), object)).shape == (0, 3)
