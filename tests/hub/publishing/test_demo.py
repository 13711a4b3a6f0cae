"""The demo with a Hub that `HF_ENDPOINT` names: looked at before the first step, and the one that is pushed to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi

from cprec_hf.hub.loopback import LoopbackHub

from .folders import model

FIRST = """
import json, os, sys
from cprec_hf import demo
from cprec_hf.errors import InputError
said, ran = [], []
for token in sys.argv[1:]:
    os.environ["HF_TOKEN"] = token
    try:
        demo.run_demo(lambda arguments: ran.append(arguments) or 7)
    except InputError as error:
        said.append(str(error))
    except SystemExit as end:
        said.append(end.code)
print(json.dumps([said, len(ran)]))
"""


def test_a_hub_that_would_refuse_is_told_before_the_first_step(
    client: Callable[..., Any], hub: LoopbackHub, ada: HfApi
) -> None:
    (wrong, none, fit), ran = client(FIRST, "hf_wrong", "", hub.token)
    assert "refuses this token; set a valid HF_TOKEN" in wrong and "none; set HF_TOKEN to push" in none
    assert all("or unset HF_ENDPOINT" in said for said in (wrong, none))
    assert (fit, ran) == (7, 1)  # the first step ran, and failed as it was told to
    ada.create_repo("cprec-tiny-base", private=False)
    (public,), ran = client(FIRST, hub.token)
    assert "push model to cprec-tiny-base: the repo is public" in public and not ran


def test_it_pushes_there_and_loads_back_from_there(
    client: Callable[..., Any], hub: LoopbackHub, ada: HfApi, tmp_path: Path
) -> None:
    """The demo's own steps after training, with a recipe of two small pushes, and a script that asks for their ids."""
    pushes = [
        {"kind": "recommender", "folder": str(model(tmp_path / "sft")), "repo": "cprec-tiny-music"},
        {"kind": "metric", "folder": "ranking_at_k", "repo": "ranking_at_k"},
    ]
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump({"push": pushes}), encoding="utf-8")
    (tmp_path / "load.py").write_text(
        "import sys\nfrom huggingface_hub import HfApi\n"
        "api = HfApi()\nprint('loaded', api.model_info(sys.argv[1]).sha, api.space_info(sys.argv[2]).sha)\n",
        encoding="utf-8",
    )
    code = """
    import contextlib, io, json, sys
    from cprec_hf import demo
    demo.STEPS, demo.PUSHES, demo.LOAD_BACK = demo.STEPS[:1], sys.argv[1], sys.argv[2]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        demo.run_demo(lambda arguments: 0)
    print(json.dumps(said.getvalue()))
    """
    found = client(code, tmp_path / "hub.yaml", tmp_path / "load.py", HF_ENDPOINT=f"{hub.url}/")
    shas = ada.model_info("ada/cprec-tiny-music").sha, ada.space_info("ada/ranking_at_k").sha
    assert f"loaded {shas[0]} {shas[1]}" in found and f"goes to the Hub at {hub.url}\n" in found.replace("  (at", "\n")
    assert not (tmp_path / "outputs").exists()  # no Hub of its own beside it
