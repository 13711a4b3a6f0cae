"""Faults of every sort at every request of every kind of push: the branch holds the old files or the new, never a mix.

20 of them in the suite; `make e2e` sets CPREC_FAULTS to 200.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import Push, publish
from cprec_hf.hub.remote import Content

from .folders import PLANS

RUNS = int(os.environ.get("CPREC_FAULTS", "20"))
FAULTS = (500, 502, 503, 429, "cut", "lost")
REQUESTS = ("create", "refs", "tree", "preupload", "lfs_batch", "lfs_put", "lfs_verify", "commit", "create_branch",
            "delete_ref", "validate_yaml", "resolve", "head", "repo_info", "any")  # fmt: skip


def contents(api: HfApi, push: Push, branch: str) -> dict[str, str]:
    """Path -> sha256 of what a branch holds, downloaded; {} if there is no such branch, or no repo."""
    if not api.repo_exists("ada/it", repo_type=push.repo_type):
        return {}
    if branch not in {b.name for b in api.list_repo_refs("ada/it", repo_type=push.repo_type).branches}:
        return {}
    folder = Path(api.snapshot_download("ada/it", repo_type=push.repo_type, revision=branch))
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".gitattributes", "README.md")]
    return {path.relative_to(folder).as_posix(): Content.of(path.resolve()).sha256 for path in files}


def wanted(push: Push) -> dict[str, str]:
    return {name: Content.of(source).sha256 for name, source in push.files.items() if name != "README.md"}


@pytest.mark.parametrize("run", range(RUNS))
def test_a_fault_leaves_the_old_or_the_new(
    hub: LoopbackHub, ada: HfApi, tmp_path: Path, waits: list[float], whole: Callable[[Path], Any], run: int
) -> None:
    rng = random.Random(run)
    kind = list(PLANS)[run % len(PLANS)]
    before: dict[str, str] = {}
    if rng.random() < 0.5:  # the branch is there already, with other files
        old = PLANS[kind](tmp_path / "old", 1)
        publish(old, ada)
        before = wanted(old)
    push = PLANS[kind](tmp_path / "new", 2)
    times = rng.choice((1, 2, 3, 50))  # 50: for good
    for _ in range(rng.choice((1, 2))):
        hub.inject(rng.choice(REQUESTS), rng.choice(FAULTS), times)
    failed = ""
    try:
        publish(push, ada)
    except InputError as error:
        failed = str(error)
        assert times == 50, failed  # a few faults are got over
    hub.clear_faults()
    told = (run, kind, failed)
    after = contents(ada, push, push.branch)
    assert after in ([before, wanted(push)] if failed else [wanted(push)]), told
    whole(tmp_path / "hub")  # every object of every commit is there, with its hash
    again = publish(push, ada)
    assert contents(ada, push, push.branch) == wanted(push), told
    assert ada.repo_info("ada/it", repo_type=push.repo_type, revision=push.branch).sha == again.commit
    branches = {b.name for b in ada.list_repo_refs("ada/it", repo_type=push.repo_type).branches}
    assert branches == {"main", push.branch}, told
