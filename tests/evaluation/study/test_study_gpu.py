"""The script for a GPU: corpora are built beforehand, and where cells run there is no Polars."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "study_gpu.py"


def test_a_lease_without_polars_and_the_report_of_what_came_back(write_study, tmp_path):
    def change(recipe):
        recipe["seeds"] = [1]
        recipe["tables"] = {
            "main": {"domains": ["Music"], "rows": {"SFT only": recipe["tables"]["main"]["rows"]["SFT only"]}}
        }
        del recipe["quick"]

    main, recipe = runpy.run_path(str(SCRIPT))["main"], write_study(tmp_path / "lease", change)
    main(["--config", str(recipe), "--prepare"])
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "polars.py").write_text("raise ImportError('there is no Polars on this machine')\n")
    path = os.pathsep.join([str(guard), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), "--config", str(recipe), "--workers", "1", "--pack", str(tmp_path / "tar")]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "[3/3] evaluate.sft.music.s1" in ran.stdout

    home = write_study(tmp_path / "home", change)
    main(["--config", str(home), "--unpack", str(tmp_path / "tar")])
    there, here = (json.loads((tmp_path / at / "out" / "results.json").read_text()) for at in ("lease", "home"))
    row = here["tables"]["main"]["rows"]["SFT only"]
    assert row == there["tables"]["main"]["rows"]["SFT only"] and row["cells"] == 1
    assert [stage["steps"] for stage in row["trained"]] == [2, 2]
    assert not [*(tmp_path / "home").rglob("*.safetensors")]
