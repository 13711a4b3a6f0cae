"""Push a folder to the Hub in one commit, so that a revision holds exactly that folder or is untouched.

`upload_folder` of huggingface_hub commits large folders in batches and leaves old files behind (a stale
`adapter_config.json` would change what a model is); here files are added and stale ones deleted in one commit.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError
from cprec_hf.hub.files import RepoType

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

# Never pushed: what the Trainer pickles its arguments into, secrets, leftovers and folders of tools.
NEVER = ("training_args.bin", ".env", ".env.*", "*.tmp", "*.key", "*.pyc")
NEVER_FOLDERS = (".git", ".cache", "__pycache__", "checkpoint-*")
# Pickles: pushed only as the resume state of a trunk checkpoint.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
_KEPT = (".gitattributes",)  # the Hub's own: not deleted when the folder has none


def files_to_push(folder: str | Path, *, resume_state: bool = False) -> list[str]:
    """The files `push_folder` would push, as sorted paths relative to `folder`.

    Args:
        folder: a local folder.
        resume_state: also the optimizer, scheduler and random states of a trunk checkpoint, which are pickles.

    Raises:
        InputError: no such folder, nothing in it to push, or weights that exist only as a pickle.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    allowed = [p for p in found if not _matches(p.name, NEVER) and not any(_matches(q, NEVER_FOLDERS) for q in p.parts)]
    pickled = [p for p in allowed if _matches(p.name, PICKLES)]
    weights = [p for p in pickled if _matches(p.name, ("pytorch_model*.bin", "adapter_model.bin"))]
    if weights:
        raise InputError(f"{folder / weights[0]} holds weights as a pickle; save them as safetensors and push again")
    if not resume_state:
        allowed = [path for path in allowed if path not in pickled]
    if not allowed:
        raise InputError(f"{folder}: nothing in this folder can be pushed")
    return [path.as_posix() for path in allowed]


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    revision: str | None = None,
    private: bool = True,
    resume_state: bool = False,
) -> CommitInfo:
    """Make a branch of a Hub repo hold exactly this folder, in one commit; the repo and the branch are made if missing.

    A folder that already stands there makes no commit: the head's is returned. Nothing is ever lost: what the commit
    replaces stays in the branch's history.

    Args:
        folder: the local folder.
        repo_id: `user/name`, or `name` under the token's user.
        repo_type: what kind of repo it is.
        message: the commit's title.
        revision: branch to commit to; `main` if None.
        private: whether a new repo is private. A repo that exists keeps its visibility.
        resume_state: see `files_to_push`.

    Raises:
        InputError: see `files_to_push`; a token that is missing, refused or may not write there; a repo that is public
            where a private one was asked for; a card the Hub refuses; someone else's commit in the same moment.
    """
    import httpx2
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    names = files_to_push(folder, resume_state=resume_state)
    api, branch = HfApi(), revision or "main"
    try:
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        space_sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=space_sdk)
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise InputError(f"{repo_type} {repo_id} is public; pass private=False to push there all the same")
        if branch != "main":
            api.create_branch(repo_id, branch=branch, repo_type=repo_type, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=repo_type, revision=branch).sha
        stale = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=head)) - {*names, *_KEPT}
        adds = [CommitOperationAdd(name, Path(folder) / name) for name in names]
        deletes = [CommitOperationDelete(name, is_folder=False) for name in sorted(stale)]
        return api.create_commit(
            repo_id,
            operations=[*adds, *deletes],
            commit_message=message,
            repo_type=repo_type,
            revision=branch,
            parent_commit=head,
        )
    except LocalTokenNotFoundError:
        raise InputError(f"{repo_id}: pushing needs a token; set HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise InputError(f"{repo_type} {repo_id} at {constants.ENDPOINT}: {_reason(error)}") from None
    except httpx2.TransportError as error:
        raise InputError(f"the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})") from None
    except ValueError as error:
        if "Invalid metadata in README.md" not in str(error):
            raise
        raise InputError(f"{folder}: {error}") from None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _reason(error: Exception) -> str:
    status = error.response.status_code  # type: ignore[attr-defined]
    known = {
        401: "the token is missing or refused; set a valid HF_TOKEN",
        403: "this token may not write there",
        412: "someone else committed to that branch in this moment; push again",
    }
    return known.get(status, f"the Hub answered with status {status}")
