import pytest

from cprec_hf.behaviors.account import Account, Step


@pytest.mark.parametrize(("rows_out", "refused"), [(8, {"no title": 1}), (9, {}), (8, {"no title": 3, "other": -1})])
def test_rows_that_do_not_add_up_are_an_error(rows_out: int, refused: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="rows in are not rows out"):
        Step("interactions: read", 10, rows_out, refused)


def test_steps_survive_json() -> None:
    account = Account()
    account.add("interactions: read", 1_234, 1_230, {"no title": 3, "duplicate event": 1})
    account.add("interactions: filter", 1_230, 1_230)
    assert Account.from_dicts(account.to_dicts()) == account
    assert account.to_dicts()[0] == {
        "name": "interactions: read",
        "rows_in": 1_234,
        "rows_out": 1_230,
        "refused": {"no title": 3, "duplicate event": 1},
    }


def test_a_copy_is_continued_alone() -> None:
    account = Account()
    account.add("read", 1, 1)
    account.copy().add("filter", 1, 0, {"few": 1})
    assert [step.name for step in account.steps] == ["read"]
