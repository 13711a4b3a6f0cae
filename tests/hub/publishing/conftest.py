"""The real client against a loopback Hub in this process; waits between tries are noted, not waited."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from cprec_hf.hub.loopback import LoopbackHub


@pytest.fixture
def ada(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """Ada's client, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=hub.url, token=hub.token)
