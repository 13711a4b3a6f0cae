"""How the loopback Hub answers: a request is authenticated, routed to an endpoint, and turned into a `Response`.

An endpoint is one function (in `loopback_repos` and `loopback_transfer`), found by method and path. Shapes and codes
are those the real clients (huggingface_hub 2.4, datasets 5.2, transformers 5.23) send and check. A repo one may not
read looks like one that is not there, as on the public Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from cprec_hf.hub.loopback_faults import Cut, Faults, half_of
from cprec_hf.hub.loopback_repo import HubError, Repo
from cprec_hf.hub.loopback_store import Store

MAX_BODY_BYTES = 512 * 1024 * 1024  # of anything held in memory; large files are streamed


@dataclass
class Request:
    """One request: who asks (None: nobody logged in), the query, and the body as a stream of chunks."""

    user: str | None
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    chunks: Iterator[bytes]

    def body(self) -> bytes:
        """The whole body. Raises `HubError` 413 if it is too large."""
        parts, size = [], 0
        for chunk in self.chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise HubError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        return b"".join(parts)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises `HubError` 400 for anything else."""
        return json_object(self.body())

    def flag(self, name: str) -> bool:
        """A boolean of the query string."""
        return self.query.get(name, ["false"])[-1].lower() in ("true", "1")


@dataclass
class Response:
    """An answer: a value to send as JSON, or a slice of a file."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    length: int = 0
    cut: bool = False  # an injected fault: half of it is sent, then the connection is closed


@dataclass
class Hub:
    """What the endpoints work on: the disk, the tokens, the address, the key of upload addresses, injected faults."""

    store: Store
    users: dict[str, str]  # token -> user name
    url: str
    sign: Callable[[str], str]
    faults: Faults

    def readable(self, request: Request, kind: str, owner: str, name: str) -> Repo:
        """The repo, under this name or an earlier one, if the asker may read it. Raises `HubError` RepoNotFound."""
        repo = self.store.find(kind, f"{owner}/{name}")
        if repo is None or (repo.settings["visibility"] == "private" and request.user != repo.owner):
            raise HubError(404 if request.user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, request: Request, kind: str, owner: str, name: str) -> Repo:
        """The repo, if the asker may write to it. Raises `HubError`: RepoNotFound, or 403 if it is only readable."""
        repo = self.readable(request, kind, owner, name)
        self.may_write(request, repo.owner)
        return repo

    def may_write(self, request: Request, owner: str) -> None:
        """Raise `HubError` unless the asker is `owner`."""
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        if request.user != owner:
            raise HubError(403, f"You don't have the rights to write under the namespace {owner!r}")


Endpoint = Callable[..., Response]
_E = TypeVar("_E", bound=Endpoint)
_WITHOUT_OWNER = re.compile(r"/api/(models|datasets|spaces)/[^/]+(/(revision|tree)/.*|/refs)?|/[^/]+/resolve/.*")
ROUTES: list[tuple[str, re.Pattern[str], Endpoint]] = []


def route(method: str, pattern: str) -> Callable[[_E], _E]:
    """Register an endpoint. `{name}` in the pattern is one segment of the raw path, unquoted after the match."""
    expanded = pattern.replace("{T}", "(models|datasets|spaces)").replace("{repo}", "([^/]+)/([^/]+)")
    compiled = re.compile(re.sub(r"\{\w+\}", "([^/]+)", expanded))

    def register(endpoint: _E) -> _E:
        ROUTES.append((method, compiled, endpoint))
        return endpoint

    return register


def answer(hub: Hub, method: str, raw_path: str, headers: dict[str, str], chunks: Iterator[bytes]) -> Response:
    """Route, authenticate, and run one request.

    Raises:
        HubError: every answer that is not a success.
        Cut: an injected fault; the connection is to be closed.
    """
    parts = urlsplit(raw_path)
    endpoint, captured = _find(method, parts.path)
    kind = "head" if method == "HEAD" else endpoint.__name__
    fault = hub.faults.meet(kind)
    if isinstance(fault, int):
        retry = {"Retry-After": "0"} if fault in (429, 503) else {}
        return Response({"error": "an injected fault"}, fault, {"X-Error-Message": "an injected fault", **retry})
    if fault == "cut" and kind == "lfs_put":
        chunks = half_of(chunks)
    elif fault == "cut" and kind != "resolve":
        raise Cut
    request = Request(_user(hub, headers), parse_qs(parts.query), headers, chunks)
    try:
        response = endpoint(hub, request, *captured)
    except HubError:
        if fault is not None:
            raise Cut from None
        raise
    if fault == "lost":
        raise Cut
    response.cut = fault == "cut"
    return response


def _find(method: str, path: str) -> tuple[Endpoint, list[str]]:
    for known, pattern, endpoint in ROUTES:
        found = pattern.fullmatch(path)
        if found and known == ("GET" if method == "HEAD" else method):
            return endpoint, [unquote(group or "") for group in found.groups()]
    no_owner = _WITHOUT_OWNER.fullmatch(path)  # `gpt2`: the loopback Hub has no repos outside a user's namespace
    raise HubError(404, "Sorry, we can't find the page you are looking for.", "RepoNotFound" if no_owner else "")


def _user(hub: Hub, headers: dict[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not scheme:
        return None
    if scheme.lower() != "bearer" or token not in hub.users:
        raise HubError(401, "Invalid credentials in Authorization header")
    return hub.users[token]


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises `HubError` 400 for anything else."""
    try:
        value = json.loads(body)
    except ValueError:
        raise HubError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise HubError(400, "the body must be a JSON object")
    return value
