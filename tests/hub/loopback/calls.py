"""What several tests ask of a Hub."""

import http.client
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from cprec_hf.hub.loopback import LoopbackHub


def status(call: Callable[[], object]) -> int:
    """The HTTP status that the client raises."""
    with pytest.raises(HfHubHTTPError) as raised:
        call()
    return raised.value.response.status_code


def content(api: HfApi, tmp_path: Path, path: str, revision: str = "main", repo_type: str = "model") -> bytes:
    """A file of `ada/r`, downloaded."""
    fetched = hf_hub_download(
        "ada/r", path, revision=revision, repo_type=repo_type, endpoint=api.endpoint, token=api.token,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    return Path(fetched).read_bytes()


def request(hub: LoopbackHub, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
    """A request as no client would send it."""
    connection = http.client.HTTPConnection("127.0.0.1", int(hub.url.rsplit(":", 1)[1]), timeout=10)
    connection.request(method, path, body, {"Authorization": f"Bearer {hub.token}", **headers})
    return connection.getresponse()
