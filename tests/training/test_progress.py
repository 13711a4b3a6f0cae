import json

import numpy as np
import pytest
import trl
from transformers import TrainerControl, TrainerState

from cprec_hf.training.packing import Order
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.wsa import wsa_phases


@pytest.fixture
def log(tmp_path):
    """A run of 10 steps of 2 rows of 5 tokens, warming up for 2 and annealing for 3."""
    progress = ProgressLog("cpt", Order(np.full(4, 5), 2, 10, 0), wsa_phases(2, 10, num_anneal_steps=3))
    args = trl.SFTConfig(str(tmp_path), bf16=False, use_cpu=True)

    def call(event, step, **kwargs):
        state = TrainerState(global_step=step, max_steps=10, is_world_process_zero=True)
        getattr(progress, event)(args, state, TrainerControl(), **kwargs)

    return call


def test_a_line_of_training_and_one_of_evaluation(log, tmp_path, capsys):
    log("on_train_begin", 0)
    log("on_log", 8, logs={"loss": 2.0, "learning_rate": 1e-3, "grad_norm": 0.5, "epoch": 0.8})
    log("on_log", 8, logs={"eval_loss": 1.5, "eval_ndcg@10": 0.25, "epoch": 0.8})
    log("on_log", 8, logs={"train_runtime": 3.0})
    training, evaluation = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert training.pop("tokens_per_second") > 0
    assert training == {
        "step": 8, "loss": 2.0, "learning_rate": 1e-3, "phase": "anneal", "tokens": 80, "grad_norm": 0.5
    }  # fmt: skip
    assert evaluation == {"step": 8, "eval_loss": 1.5, "eval_ndcg@10": 0.25}
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cpt  step 8/10  loss 2.000  lr 1.00e-03 anneal  ")
    assert said[0].endswith(" left")
    assert said[1] == "cpt  step 8  eval_loss 1.5000  eval_ndcg@10 0.2500"


def test_a_resumed_run_drops_what_came_after_its_checkpoint(log, tmp_path):
    kept = ['{"step": 2, "loss": 3.0}', '{"step": 4, "eval_loss": 2.5}']
    (tmp_path / "log.jsonl").write_text("\n".join([*kept, '{"step": 6, "loss": 2.0}', '{"step": 7, "lo']))
    log("on_train_begin", 4)
    assert (tmp_path / "log.jsonl").read_text().splitlines() == kept
