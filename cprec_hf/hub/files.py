"""Files of a local folder or of a Hub repo, by one name; what is missing is said in one sentence.

`local_path("my/folder", "cprec.json")` and `local_path("user/model", "cprec.json", revision="v1")` read alike. The
endpoint, the token and the cache are huggingface_hub's own (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cprec_hf.errors import InputError

RepoType = Literal["model", "dataset", "space"]


def local_path(
    repo_or_folder: str | Path, filename: str, revision: str | None = None, repo_type: RepoType = "model"
) -> Path:
    """One file of a local folder, or of a Hub repo (downloaded into the Hub cache if it is not there yet).

    Args:
        repo_or_folder: an existing folder, else a repo id (`name` or `user/name`).
        filename: path inside it, with forward slashes.
        revision: branch, tag or commit of the repo; a local folder has none.
        repo_type: which kind of repo the id names.

    Raises:
        InputError: no such folder, repo, revision or file (told apart), a refused token, or a Hub out of reach.
    """
    folder = _local_folder(repo_or_folder, revision)
    if folder is not None:
        if not (folder / filename).is_file():
            raise InputError(f"{folder}: no file {filename} in this folder")
        return folder / filename
    import huggingface_hub

    with hub_said_plainly(str(repo_or_folder), revision, repo_type, filename):
        return Path(
            huggingface_hub.hf_hub_download(str(repo_or_folder), filename, revision=revision, repo_type=repo_type)
        )


def snapshot(
    repo_or_folder: str | Path,
    revision: str | None = None,
    repo_type: RepoType = "model",
    allow_patterns: list[str] | None = None,
) -> Path:
    """A local folder as it is, or a Hub repo downloaded into the Hub cache; the last part of that path is its commit.

    Args:
        repo_or_folder: an existing folder, else a repo id.
        revision: branch, tag or commit of the repo; a local folder has none.
        repo_type: which kind of repo the id names.
        allow_patterns: shell patterns; only files that match one are downloaded.

    Raises:
        InputError: as `local_path`, and when no file at all matches `allow_patterns`.
    """
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    folder = _local_folder(repo_or_folder, revision)
    if folder is None:
        with hub_said_plainly(str(repo_or_folder), revision, repo_type):
            folder = Path(
                huggingface_hub.snapshot_download(
                    str(repo_or_folder), revision=revision, repo_type=repo_type, allow_patterns=allow_patterns
                )
            )
    if allow_patterns is not None:
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if next(iter(filter_repo_objects(names, allow_patterns=allow_patterns)), None) is None:
            raise InputError(f"{repo_or_folder}: no file here matches {', '.join(allow_patterns)}")
    return folder


def dataset_facts(repo_id: str, revision: str | None = None) -> dict[str, str]:
    """The commit that a revision of a dataset repo stands for, as `revision`, and, where its card says it, `licence`.

    Raises:
        InputError: no such repo or revision (told apart), a refused token, or a Hub out of reach.
    """
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    try:
        with hub_said_plainly(repo_id, revision, "dataset"):
            info = HfApi(endpoint=constants.ENDPOINT).dataset_info(repo_id, revision=revision)
    except HFValidationError:
        raise InputError(f"{repo_id!r} is no file here and cannot be a repo id, which looks like user/name") from None
    except (httpx2.TransportError, OfflineModeIsEnabled):
        raise InputError(
            f"{repo_id!r} is not a file here, and the Hub at {constants.ENDPOINT} cannot be reached; check the path, "
            "or HF_ENDPOINT and the network"
        ) from None
    licence = info.card_data.get("license") if info.card_data else None
    return {"revision": str(info.sha)} | ({"licence": licence} if isinstance(licence, str) else {})


def _local_folder(repo_or_folder: str | Path, revision: str | None) -> Path | None:
    """The folder if there is one, None for a repo id; a path that is neither raises."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    path = Path(repo_or_folder).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{path} is a local folder and has no revision {revision}; leave the revision out")
        return path
    if path.exists():
        raise InputError(f"{path} is a file; give the folder that holds it, or a repo id")
    name = str(repo_or_folder)
    is_path = isinstance(repo_or_folder, Path) or name.startswith((".", "/", "~")) or name.endswith("/")
    try:
        validate_repo_id(name)
    except HFValidationError:
        is_path = True
    if is_path:
        raise InputError(f"no such folder: {name!r} (and it cannot be a repo id, which looks like user/name)")
    return None


@contextmanager
def hub_said_plainly(repo_id: str, revision: str | None, repo_type: str, filename: str | None = None) -> Iterator[None]:
    """Turn the Hub client's errors into one `InputError` each; their own texts, which may quote requests, stay out."""
    from huggingface_hub import constants, errors

    what = f"{repo_type} {repo_id}"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{what} is gated: ask for access on its page at {constants.ENDPOINT}/{repo_id}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{repo_id!r} is neither a folder here nor a {repo_type} repo at {constants.ENDPOINT} that this token may "
            f"read ({_token_state()}); check the name, or set HF_TOKEN if it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{what} has no revision {revision!r}; see its branches and tags on its page") from None
    except errors.RemoteEntryNotFoundError:
        raise InputError(f"{what} has no file {filename} at revision {revision or 'main'}") from None
    except errors.LocalEntryNotFoundError:
        if constants.is_offline_mode():
            raise InputError(f"{what} is not in the Hub cache, and HF_HUB_OFFLINE is set") from None
        raise InputError(
            f"{repo_id!r} is not a folder here, and the Hub at {constants.ENDPOINT} cannot be reached or did not "
            "answer; check the path, or HF_ENDPOINT and the network"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = "refuses this token; set a valid HF_TOKEN" if status == 401 else f"answered with status {status}"
        raise InputError(f"{what}: the Hub at {constants.ENDPOINT} {said}") from None


def _token_state() -> str:
    from huggingface_hub import get_token

    return "one is set" if get_token() else "none is set"
