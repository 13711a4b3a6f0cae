"""Asking again: what may pass is waited for, longer each time; what will not is raised at once."""

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from cprec_hf.hub.retry import WAITS, insist


def failing(times: int, status: int | None, **headers: str):
    calls = []

    def call() -> int:
        calls.append(1)
        if len(calls) > times:
            return len(calls)
        if status is None:
            raise httpx2.ConnectError("cut")
        request = httpx2.Request("GET", "http://hub")
        raise HfHubHTTPError("no", response=httpx2.Response(status, headers=headers, request=request))

    return call, calls


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, None])
def test_it_asks_again_and_waits_longer_each_time(waits: list[float], status: int | None, capsys) -> None:
    call, _ = failing(3, status)
    assert insist(call) == 4
    assert all(least <= wait <= 1.5 * least for wait, least in zip(waits, WAITS, strict=False)) and len(waits) == 3
    assert "asking again" in capsys.readouterr().err


def test_it_gives_up_after_the_last_wait(waits: list[float]) -> None:
    call, calls = failing(99, 503)
    with pytest.raises(HfHubHTTPError):
        insist(call)
    assert len(calls) == len(WAITS) + 1 == len(waits) + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412])
def test_what_will_not_pass_is_raised_at_once(waits: list[float], status: int) -> None:
    call, calls = failing(1, status)
    with pytest.raises(HfHubHTTPError):
        insist(call)
    assert len(calls) == 1 and not waits


@pytest.mark.parametrize(("asked", "waited"), [("0", 0), ("7", 7), ("9999", 120)])
def test_the_hub_says_how_long(waits: list[float], asked: str, waited: float) -> None:
    call, _ = failing(1, 429, **{"Retry-After": asked})
    insist(call)
    assert waits == [waited]
