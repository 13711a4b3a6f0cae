"""A corpus to the Hub, in one commit: `cprec corpus push FOLDER user/name`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.corpus.audit import audit_corpus

if TYPE_CHECKING:
    from cprec_hf.hub.publish import Push


def plan_audited_corpus(folder: str | Path, repo_id: str, *, branch: str = "main", private: bool = True) -> Push:
    """Audit a corpus folder as it stands now, not as it was built, and plan its push for `hub.publish.publish`.

    Raises:
        InputError: the audit fails, or what `hub.kinds.plan_corpus` refuses.
    """
    from cprec_hf.hub.kinds import plan_corpus

    plan = plan_corpus(folder, repo_id, branch=branch, private=private)
    audit_corpus(folder).require()
    return plan
