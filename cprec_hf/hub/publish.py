"""Publish a set of files as one commit, so that a branch of a Hub repo holds exactly those files or is untouched.

`upload_folder` of huggingface_hub commits large folders in batches and leaves old files behind (a stale
`adapter_config.json` would change what a model is). Here files are added and stale ones deleted in one commit, and a
branch that is new is made from the finished commit, so nobody sees it half-filled. What is pushed comes from `kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError
from cprec_hf.hub.files import RepoType
from cprec_hf.hub.published import Pushed, remember
from cprec_hf.hub.remote import Remote, Source, size
from cprec_hf.hub.retry import HubUnavailable, insist, may_pass
from cprec_hf.hub.secrets import refuse_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_STAGING = "cprec-push/"  # where the commit of a branch that is new is made


@dataclass(frozen=True)
class Push:
    """What is to stand in one branch of one repo."""

    kind: str
    """corpus, trunk, model, adapter, recommender, metric, results."""
    repo_id: str
    """`user/name`, or `name` under the token's user."""
    repo_type: RepoType
    files: Mapping[str, Source]
    """Path in the repo -> local file, or content."""
    message: str
    """The commit's title."""
    card: Callable[[str, str], str] | None = None
    """README.md from the full repo id and the free section of the card that stands there; None: it is in `files`."""
    folder: Path | None = None
    """The local folder; it is noted there where it was pushed to."""
    branch: str = "main"
    private: bool = True
    """Whether a new repo is private. A repo that exists keeps its visibility."""

    def listing(self) -> str:
        """For a dry run: where it goes, and every file with its size; the card's as far as it is known by now.

        Raises:
            InputError: secrets in the files, as `publish` would find them.
        """
        where = self.repo_id if "/" in self.repo_id else f"OWNER/{self.repo_id}"
        card = {} if self.card is None else {CARD: self.card(where, "").encode()}
        files = {**self.files, **card}
        refuse_secrets(files)
        sizes = {name: size(source) for name, source in files.items()}
        width = max(map(len, sizes))
        lines = [f"  {name:<{width}}  {size:>14,} bytes" for name, size in sorted(sizes.items())]
        seen = "private" if self.private else "public"
        head = f"{self.kind}: {self.repo_type} repo {self.repo_id}, branch {self.branch}, {seen} if it is new"
        return "\n".join([head, *lines, f"  {len(sizes)} files, {sum(sizes.values()):,} bytes"])


def publish(push: Push, api: HfApi | None = None) -> Pushed:
    """Make the branch hold exactly the push's files: all of them in one commit, or nothing.

    A branch that holds them already gets no commit. What a commit replaces stays in the branch's history. Large files
    that an interrupted push has sent are not sent again. A repo that this call made is removed if the push fails.

    Args:
        push: what goes where.
        api: a client with another endpoint or token than the environment's.

    Raises:
        InputError: secrets in the files; a token that is missing, refused or may not write there; a repo that is public
            where a private one was asked for; a card the Hub refuses; someone else's commit in the same moment; a Hub
            that does not answer. In each case the branch is as it was.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    refuse_secrets(push.files)
    with _said_plainly(push, api):
        owner = "" if "/" in push.repo_id else f"{insist(api.whoami)['name']}/"
        remote = Remote(api, f"{owner}{push.repo_id}", push.repo_type)
        made = remote.make(private=push.private)
        try:
            commit = _fill(remote, push)
        except BaseException:
            if made:
                with suppress(Exception):  # the failure that is on its way up says more than one of the clean-up
                    remote.remove_if_empty()
            raise
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}[push.repo_type]
    url = f"{api.endpoint}/{prefix}{remote.repo_id}/commit/{commit}"
    pushed = Pushed(remote.repo_id, push.branch, commit, url)
    if push.folder is not None:
        remember(push.folder, pushed, api.endpoint)
    return pushed


def _fill(remote: Remote, push: Push) -> str:
    """Bring the files to the branch; returns its commit."""
    from cprec_hf.hub.cards import free_section

    heads, staging = remote.heads(), f"{_STAGING}{push.branch}"
    start = heads.get(push.branch, heads["main"])
    files = dict(push.files)
    if push.card is not None:
        card = push.card(remote.repo_id, free_section(remote.text(CARD, start))).encode()
        refuse_secrets({CARD: card})
        files[CARD] = card
    if staging in heads:  # left by a push that was killed
        remote.drop_branch(staging)
    if push.branch in heads:
        return remote.commit(push.branch, start, files, push.message)
    try:
        remote.branch(staging, start)
        commit = remote.commit(staging, start, files, push.message)
        remote.branch(push.branch, commit)
    finally:
        with suppress(Exception):  # the next push to this branch removes what stays
            remote.drop_branch(staging)
    return commit


@contextmanager
def _said_plainly(push: Push, api: HfApi) -> Iterator[None]:
    """Turn the client's errors into one `InputError` each; their own texts, which may quote requests, stay out."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError

    what = f"{push.repo_type} {push.repo_id}"
    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(f"{what}: pushing needs a token; set HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        known = {
            401: "the token is missing or refused; set a valid HF_TOKEN",
            403: "this token may not write there",
            412: "someone else committed to that branch in this moment; push again",
        }
        said = known.get(status, f"the Hub answered with status {status}; the push changed nothing, try again later")
        kind = HubUnavailable if may_pass(error) or status == 412 else InputError
        raise kind(f"{what} at {api.endpoint}: {said}") from None
    except (httpx2.TransportError, LocalEntryNotFoundError) as error:
        raise HubUnavailable(f"the Hub at {api.endpoint} cannot be reached ({type(error).__name__})") from None
    except ValueError as error:
        if "Invalid metadata in README.md" not in str(error):
            raise
        raise InputError(f"{what}: {error}") from None
