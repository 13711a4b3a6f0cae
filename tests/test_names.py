"""The names of tests, which the processes of a run compare: the same in all of them."""

import gzip

import pytest


@pytest.mark.parametrize("content", [gzip.compress(b"written at some time"), b"\x00\xff"])
def test_no_name_holds_the_bytes_a_test_is_given(content: bytes, request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        given = getattr(item, "callspec", None)
        for value in given.params.values() if given else ():
            if isinstance(value, bytes) and "\\x" in repr(value):
                assert repr(value)[2:-1] not in item.nodeid
