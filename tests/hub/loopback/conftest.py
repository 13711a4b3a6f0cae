"""Clients in this process, of the two users of `hub`."""

import pytest
from huggingface_hub import HfApi

from cprec_hf.hub.loopback import LoopbackHub


@pytest.fixture
def ada(hub: LoopbackHub) -> HfApi:
    """Ada's client."""
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def bob(hub: LoopbackHub) -> HfApi:
    """Bob's client."""
    return HfApi(endpoint=hub.url, token=hub.users["bob"])
