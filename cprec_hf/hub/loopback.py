"""A Hub on this machine that the real clients push to and load from, for tests and demos without internet.

    with LoopbackHub(folder) as hub:
        subprocess.run([...], env={**os.environ, **hub.env})  # huggingface_hub, datasets, transformers, the hf CLI

The clients read `HF_ENDPOINT` at import: set `hub.env` before, or give `HfApi(endpoint=hub.url, token=hub.token)`.
`hub.inject("commit", 503, times=2)` lets the next two commits fail (see `loopback_faults`).
It binds to 127.0.0.1 only, keeps everything under one folder (see `loopback_repo`), and logs no token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.hub import loopback_repos, loopback_transfer  # noqa: F401  (their endpoints register themselves)
from cprec_hf.hub.loopback_api import ROUTES, Hub, Response, answer
from cprec_hf.hub.loopback_faults import Cut, Fault, Faults
from cprec_hf.hub.loopback_repo import HubError
from cprec_hf.hub.loopback_store import Store, check_repo_id

logger = logging.getLogger(__name__)

_CHUNK = 1024 * 1024


class LoopbackHub:
    """A running loopback Hub. Repos persist under `root` and are there again at the next start.

    Args:
        root: folder of the repos, made if it is not there.
        users: user names and their tokens; the first is the one of `user`, `token` and `env`. One user named `local`
            with a token made for this run, if none are given.
        port: 0 lets the system choose.

    Raises:
        InputError: a user name or a token that cannot be one, `root` cannot be written, holds something else or is
            served by another process, or the port is taken.
    """

    def __init__(self, root: str | Path, users: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.users = dict(users or {"local": f"hf_{secrets.token_hex(16)}"})
        _check_users(self.users)
        store, key = Store(Path(root)), secrets.token_bytes(32)
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            store.close()
            why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
            raise InputError(f"the loopback Hub cannot listen on port {port}: {why}") from None
        self._server.hub = Hub(
            store,
            {token: user for user, token in self.users.items()},
            self.url,
            lambda path: hmac.new(key, path.encode(), hashlib.sha256).hexdigest(),
            Faults({"head", *(endpoint.__name__ for _, _, endpoint in ROUTES)}),
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The endpoint, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def user(self) -> str:
        """The first user's name: the namespace of their repos."""
        return next(iter(self.users))

    @property
    def token(self) -> str:
        """The first user's token."""
        return self.users[self.user]

    @property
    def env(self) -> dict[str, str]:
        """What a client process needs in its environment to use this Hub as the first user."""
        named = [os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), "127.0.0.1"]
        unproxied = ",".join(dict.fromkeys(filter(None, named)))
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": unproxied,
            "no_proxy": unproxied,  # where both are set, some clients read only this one
        }

    @property
    def seen(self) -> Counter[str]:
        """How many requests of each kind were asked for; a kind is the name of an endpoint's function."""
        return self._server.hub.faults.seen

    def inject(self, kind: str, fault: Fault, times: int = 1) -> None:
        """Let the next `times` requests of `kind` fail; see `loopback_faults`. Injections queue.

        Args:
            kind: an endpoint (`commit`, `lfs_put`, `resolve`, ...), `head`, or `any`.
            fault: an HTTP status that is answered instead, `cut`, or `lost`.
            times: how many requests fail.

        Raises:
            InputError: no such kind or fault, or fewer than one time.
        """
        self._server.hub.faults.inject(kind, fault, times)

    def clear_faults(self) -> None:
        """Forget the faults that still wait for their request."""
        self._server.hub.faults.clear()

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._server.hub.store.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a client with many threads connects with all of them at once
    block_on_close = False  # clients keep connections open; their threads die with the process
    stopped = False  # set for the connections that clients keep open
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; `_serve` has logged everything else."""
        logger.debug("a connection ended early")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def _serve(self) -> None:
        if self.server.stopped:
            raise Cut
        body = _body(self.rfile, self.headers)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            response = answer(self.server.hub, self.command, self.path, headers, body)
        except HubError as error:
            response = _error(error)
        except ConnectionError:
            raise
        except Exception:
            logger.exception("%s %s", self.command, self._shown_path())
            response = _error(HubError(500, "Internal Error - We're working hard to fix this as soon as possible!"))
        too_large = response.status == 413
        if too_large:  # say so at once; a client stops sending when it has read this
            self.close_connection = True
            self._send(response)
            self.connection.shutdown(socket.SHUT_WR)
        for _ in body:  # replying or closing before the body is read would cut the client's connection
            pass
        if not too_large:
            self._send(response)

    def _send(self, response: Response) -> None:
        content = b"" if response.file else json.dumps(response.value).encode()
        length = response.length if response.file else len(content)
        self.send_response(response.status)
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if response.file is None:
            self.wfile.write(content)
            return
        with response.file.open("rb") as file:
            file.seek(response.start)
            length = length // 2 if response.cut else length
            while length > 0 and (chunk := file.read(min(_CHUNK, length))):
                self.wfile.write(chunk)
                length -= len(chunk)
        if response.cut:
            raise Cut

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s %s", self.command, self._shown_path())

    def _shown_path(self) -> str:
        return "/lfs/..." if self.path.startswith("/lfs/") else self.path.partition("?")[0]

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve


def _check_users(users: Mapping[str, str]) -> None:
    for name, token in users.items():
        try:
            check_repo_id(f"{name}/repo")
        except HubError:
            raise InputError(f"{name!r} cannot be a user's name: letters, digits, - _ and . only") from None
        if not re.fullmatch("[!-~]+", token):  # it travels in a header and on a command line
            raise InputError(f"the token of {name} must be of visible ASCII characters, without spaces")
    if len(set(users.values())) < len(users):
        raise InputError("two users have the same token; give each their own")


def _error(error: HubError) -> Response:
    message = " ".join(error.message.split()).encode("latin-1", "replace").decode("latin-1")
    headers = {"X-Error-Message": message}
    headers |= {"X-Error-Code": error.code} if error.code else {}
    headers |= {"X-Repo-Commit": error.commit} if error.commit else {}
    headers |= {"Content-Range": error.message} if error.status == 416 else {}
    return Response({"error": error.message}, error.status, headers)


def _body(stream: Any, headers: Any) -> Iterator[bytes]:
    """A request's body in chunks, whether its length is given or it comes chunked; not a byte more is read."""
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        while size := int(stream.readline(64).split(b";")[0] or b"0", 16):
            while size > 0:
                chunk = stream.read(min(_CHUNK, size))
                if not chunk:
                    raise ConnectionError("the body ended early")
                size -= len(chunk)
                yield chunk
            stream.readline(8)
        while stream.readline(1024).strip():  # trailers
            pass
        return
    left = int(headers.get("Content-Length") or 0)
    while left > 0:
        chunk = stream.read(min(_CHUNK, left))
        if not chunk:
            raise ConnectionError("the body ended early")
        left -= len(chunk)
        yield chunk
