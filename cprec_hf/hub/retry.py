"""Ask the Hub again when it fails in passing: server errors, rate limits, cut connections; with growing waits."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from cprec_hf.errors import InputError

T = TypeVar("T")

# Seconds; each up to a half longer, so that many clients do not come back at once.
WAITS: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
_jitter = random.Random()  # not the process' own generator, whose state a training run saves
LONGEST_WAIT = 120.0  # seconds, whatever the Hub asks for


class HubUnavailable(InputError):
    """The Hub did not do what was asked, and may do it later: it is out of reach, failing or busy."""


def insist(call: Callable[[], T]) -> T:
    """`call()`, again after each failure that may pass; the last one is raised, and any other at once.

    Calls must bear being carried out twice: of a cut connection nobody knows on which side of the work it was cut.
    Many of huggingface_hub's requests are repeated by the client already; those that create, list and validate are not.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for attempt, wait in enumerate(WAITS, 1):
        try:
            return call()
        except (HfHubHTTPError, httpx2.TransportError, LocalEntryNotFoundError) as error:  # the last: of a download
            if not may_pass(error):
                raise
            asked = _asked_for(error)
            wait = wait * (1 + _jitter.random() / 2) if asked is None else asked
            print(f"{_said(error)}; asking again in {wait:.0f} s ({attempt} of {len(WAITS)})", file=sys.stderr)
            time.sleep(wait)
    return call()


def may_pass(error: Exception) -> bool:
    """Whether asking again may help: no answer at all, status 429, or a server error."""
    response = getattr(error, "response", None)
    return response is None or response.status_code == 429 or response.status_code >= 500


def _asked_for(error: Exception) -> float | None:
    """The seconds of a `Retry-After` header."""
    response = getattr(error, "response", None)
    value = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_WAIT) if value.isdigit() else None


def _said(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None:
        return f"the connection to the Hub failed ({type(error).__name__})"
    return f"the Hub answered with status {response.status_code}"
