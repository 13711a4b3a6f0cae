"""A corpus to the Hub, in one commit: `cprec corpus push FOLDER user/name`."""

from __future__ import annotations

from pathlib import Path

from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.load import load_facts
from cprec_hf.errors import InputError


def push_corpus(folder: str | Path, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
    """Audit a corpus folder and push it as a dataset repo.

    Args:
        folder: a corpus built here.
        repo_id: `user/name`, or `name` under the token's user.
        private: whether a new repo is private.
        revision: branch to commit to; `main` if None.

    Returns:
        The commit's URL.

    Raises:
        InputError: a public push of a source that may not be published again, a failed audit, or what
            `hub.publish.push_folder` refuses.
    """
    from cprec_hf.hub.publish import push_folder

    about = load_facts(folder)["about"]
    if not private and not about["redistributable"]:
        raise InputError(
            f"{folder} was made from {about['name']!r}, which may not be published again (licence: "
            f"{about['licence']}); push it to a private repo"
        )
    audit_corpus(folder).require()
    message = f"Corpus {load_facts(folder)['name']}"
    return push_folder(
        folder, repo_id, repo_type="dataset", message=message, revision=revision, private=private
    ).commit_url
