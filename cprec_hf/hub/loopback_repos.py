"""The loopback Hub's endpoints that make, describe and change repos; contents move in `loopback_transfer`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from cprec_hf.hub import loopback_info as info
from cprec_hf.hub.loopback_api import Hub, Request, Response, json_object, route
from cprec_hf.hub.loopback_repo import HubError, Repo
from cprec_hf.hub.loopback_store import check_repo_id


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Response:
    """Who the token belongs to."""
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "loopback", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
    auth = {"type": "access_token", "accessToken": token}
    who = {"type": "user", "id": request.user, "name": request.user, "fullname": request.user, "isPro": False}
    return Response({**who, "orgs": [], "auth": auth})


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Response:
    """A new repo; 409 with its address if it exists."""
    asked = request.json()
    kind = _kind(asked)
    repo_id = f"{asked.get('organization') or request.user or ''}/{asked.get('name')}"
    url = _new_url(hub, request, kind, repo_id)
    with hub.store.lock:
        if hub.store.repo(kind, repo_id) is not None:
            return _exists(kind, url)
        visibility = asked.get("visibility") or ("private" if asked.get("private") else "public")
        hub.store.create(kind, repo_id, visibility=visibility, sdk=asked.get("sdk"))
    return Response({"url": url, "name": repo_id, "id": repo_id})


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Response:
    """Remove a repo."""
    asked = request.json()
    owner = str(asked.get("organization") or request.user or "")
    with hub.store.lock:
        hub.store.delete(_named(hub, request, _kind(asked), f"{owner}/{asked.get('name')}"))
    return Response({})


@route("POST", "/api/repos/move")
def move(hub: Hub, request: Request) -> Response:
    """Rename a repo within what the asker owns; its old name still leads to it, until another repo takes that name."""
    asked = request.json()
    target = check_repo_id(str(asked.get("toRepo")))
    with hub.store.lock:
        repo = _named(hub, request, _kind(asked), str(asked.get("fromRepo")))
        hub.may_write(request, target.split("/")[0])
        if hub.store.repo(repo.kind, target) is not None:
            raise HubError(409, f"{target} exists already")
        hub.store.move(repo, target)
    return Response({})


@route("POST", "/api/{T}/{repo}/duplicate")
def duplicate(hub: Hub, request: Request, kind: str, owner: str, name: str) -> Response:
    """A new repo with the contents of one that the asker may read; 409 with its address if it exists."""
    asked = request.json()
    target = str(asked.get("repository"))
    url = _new_url(hub, request, kind, target)
    with hub.store.lock:
        repo = hub.readable(request, kind, owner, name)
        if hub.store.repo(kind, target) is not None:
            return _exists(kind, url)
        hub.store.duplicate(repo, target, visibility=asked.get("visibility") or repo.settings["visibility"])
    return Response({"url": url})


@route("PUT", "/api/{T}/{repo}/settings")
def settings(hub: Hub, request: Request, kind: str, owner: str, name: str) -> Response:
    """Change visibility."""
    visibility = request.json().get("visibility")
    if visibility not in ("public", "private"):
        raise HubError(400, "visibility must be public or private")
    hub.writable(request, kind, owner, name).update_settings(visibility=visibility)
    return Response({"private": visibility == "private"})


@route("GET", "/api/{T}")
def list_repos(hub: Hub, request: Request, kind: str) -> Response:
    """The repos the asker may see, narrowed by `author`, `search` and `filter` (tags)."""
    author, search = request.query.get("author", [""])[0], request.query.get("search", [""])[0].lower()
    found = [
        info.repo_info(repo, "main")
        for repo in hub.store.repos(kind)
        if (repo.settings["visibility"] != "private" or request.user == repo.owner)
        and author in ("", repo.owner)
        and search in repo.id.lower()
    ]
    wanted = set(request.query.get("filter", []))
    limit = int(request.query.get("limit", ["1000"])[0])
    return Response([repo for repo in found if wanted <= set(repo["tags"])][:limit])


@route("GET", "/api/settings/repositories")
def owned(hub: Hub, request: Request) -> Response:
    """All that the asker owns, with the bytes it holds."""
    repos = [r for kind in ("models", "datasets", "spaces") for r in hub.store.repos(kind) if r.owner == request.user]
    listed = []
    for repo in repos:
        known = info.repo_info(repo, "main")
        about = {"id": repo.id, "type": repo.kind[:-1], "visibility": repo.settings["visibility"]}
        listed.append({**about, "updatedAt": known["lastModified"], "storage": known["usedStorage"]})
    return Response(listed)


@route("GET", "/api/{T}/{repo}(?:/revision/([^/]+))?")
def repo_info(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """What is known of a repo at a revision; `expand` asks for some of it, `blobs` for file sizes."""
    repo = hub.readable(request, kind, owner, name)
    known = info.repo_info(repo, revision or "main", blobs=request.flag("blobs"))
    expand = request.query.get("expand", []) + request.query.get("expand[]", [])
    return Response({k: v for k, v in known.items() if k in ("id", "_id", *expand)} if expand else known)


@route("GET", "/api/{T}/{repo}/auth-check")
def auth_check(hub: Hub, request: Request, kind: str, owner: str, name: str) -> Response:
    """Whether the asker may read the repo."""
    hub.readable(request, kind, owner, name)
    return Response({})


@route("GET", "/api/{T}/{repo}/tree/{revision}(?:/(.*))?")
def tree(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str, folder: str) -> Response:
    """Files and folders of a folder, all below it with `recursive`."""
    repo = hub.readable(request, kind, owner, name)
    return Response(info.tree(repo, revision, folder.strip("/"), request.flag("recursive"), request.flag("expand")))


@route("POST", "/api/{T}/{repo}/paths-info/{revision}")
def paths_info(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """What is known of the paths of a form (or of a JSON object); those that are not there are left out."""
    repo = hub.readable(request, kind, owner, name)
    body = request.body()
    if "json" in request.headers.get("content-type", ""):
        asked = json_object(body)
        paths, expand = asked.get("paths", []), bool(asked.get("expand"))
    else:
        form = parse_qs(body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[-1].lower() in ("true", "1")
    return Response(info.paths(repo, revision, [path.strip("/") for path in paths], expand))


@route("GET", "/api/{T}/{repo}/refs")
def refs(hub: Hub, request: Request, kind: str, owner: str, name: str) -> Response:
    """Branches and tags."""
    known = hub.readable(request, kind, owner, name).refs()
    listed = {
        key: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": c} for n, c in known[key].items()]
        for key, ref in (("branches", "heads"), ("tags", "tags"))
    }
    return Response({**listed, "converts": [], "pullRequests": []})


@route("GET", "/api/{T}/{repo}/commits/{revision}")
def commits(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """A revision's commits, newest first."""
    repo = hub.readable(request, kind, owner, name)
    return Response(
        [
            {"id": c.id, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
            for c in repo.history(revision)
        ]
    )


@route("POST", "/api/{T}/{repo}/branch/{branch}")
def create_branch(hub: Hub, request: Request, kind: str, owner: str, name: str, branch: str) -> Response:
    """A new branch, from `startingPoint` or the head of main."""
    repo = hub.writable(request, kind, owner, name)
    repo.set_ref("branches", branch, repo.resolve(str(request.json().get("startingPoint") or "main")))
    return Response({}, 201)


@route("DELETE", "/api/{T}/{repo}/(branch|tag)/{ref}")
def delete_ref(hub: Hub, request: Request, kind: str, owner: str, name: str, which: str, ref: str) -> Response:
    """Remove a branch or a tag."""
    hub.writable(request, kind, owner, name).set_ref("branches" if which == "branch" else "tags", ref, None)
    return Response({})


@route("POST", "/api/{T}/{repo}/tag/{revision}")
def create_tag(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """A new tag on a revision."""
    repo = hub.writable(request, kind, owner, name)
    repo.set_ref("tags", str(request.json().get("tag")), repo.resolve(revision))
    return Response({})


def _new_url(hub: Hub, request: Request, kind: str, repo_id: str) -> str:
    """The address of a repo that the asker may make."""
    hub.may_write(request, repo_id.partition("/")[0])
    try:
        check_repo_id(repo_id)
    except HubError:
        raise HubError(400, f"Invalid repo name: {repo_id}") from None
    return f"{hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"


def _exists(kind: str, url: str) -> Response:
    message = f"You already created this {kind[:-1]} repo"
    return Response({"error": message, "url": url}, 409, {"X-Error-Message": message})


def _named(hub: Hub, request: Request, kind: str, repo_id: str) -> Repo:
    """The repo to delete or move: the one of this very name, not one that an old name leads to."""
    owner, _, name = repo_id.partition("/")
    repo = hub.writable(request, kind, owner, name)
    if repo.id != repo_id:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repo


def _kind(asked: dict[str, Any]) -> str:
    kind = f"{asked.get('type') or 'model'}s"
    if kind not in ("models", "datasets", "spaces"):
        raise HubError(400, f"no such type of repo: {kind[:-1]!r}")
    return kind
