"""One process, two under DDP and two under FSDP2 train the same model, and go on with one another's checkpoints.

All runs of two processes share one launch, `worker.py`; each reads four rows a step.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import cpt, listwise, sft
from training.runs import half_written, log_lines, weights

ONE = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
TWO = {**ONE, "per_device_train_batch_size": 1}
KINDS = ["ddp", "fsdp2"]
SIBLINGS = {"negatives": 2, "learning_rate": 0.003}
# A step of plain gradient descent on all 30 rows at once, from which the gradient can be read off.
DESCENT = {
    "max_steps": 1, "save_strategy": "no", "packing": False, "per_device_train_batch_size": 3, "optim": "sgd",
    "lr_scheduler_type": "constant", "learning_rate": 4.0, "max_grad_norm": 0.0, "completion_only_loss": "true",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(flags_in, tmp_path_factory):
    """Runs by name: `one`, `ddp`, `fsdp2`; `A-B`, saved by A at step 2 and resumed by B; `gradient-A`."""
    folder = tmp_path_factory.mktemp("processes")

    def resume(saved, by):
        """As elsewhere: from a copy of the checkpoint's folder alone."""
        where = folder / f"of-{saved}" / "downloaded"
        return flags_in(folder, f"{saved}-{by}", **(ONE if by == "one" else TWO), resume_from_checkpoint=where)

    cpt.main(flags_in(folder, "one", **ONE))
    shutil.copytree(folder / "one" / "checkpoint-2", folder / "of-one" / "downloaded")
    runs = [(kind, "cpt", flags_in(folder, kind, **TWO)) for kind in KINDS]
    runs += [(kind, "cpt", resume("one", kind)) for kind in KINDS]
    runs += [
        (kind, "sft", flags_in(folder, f"gradient-{kind}", **DESCENT, gradient_accumulation_steps=5)) for kind in KINDS
    ]
    runs += [("ddp", "listwise", flags_in(folder, "listwise-ddp", **TWO, **SIBLINGS, reference="true"))]
    runs += [("fsdp2", "listwise", flags_in(folder, "listwise-fsdp2", **TWO, **SIBLINGS, reference="true"))]
    runs.append(("refused", "cpt", flags_in(folder, "refused", **TWO)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(Path(__file__).with_name("worker.py")), json.dumps(runs)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (folder / "refused").exists()
    for kind in KINDS:
        shutil.copytree(folder / kind / "checkpoint-2", folder / f"of-{kind}" / "downloaded")
        cpt.main(resume(kind, "one"))
    sft.main(flags_in(folder, "gradient-one", **DESCENT, gradient_accumulation_steps=10))
    listwise.main(flags_in(folder, "listwise-one", **ONE, **SIBLINGS, reference="true"))
    return folder


def difference(a, b):
    """The largest between the weights of two runs, which have the same names."""
    a, b = (load_file(path / "model.safetensors") for path in (a, b))
    assert a.keys() == b.keys()
    return max(np.abs(values - b[name]).max() for name, values in a.items())


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_model_of_one(folder, kind):
    one, two = folder / "one", folder / kind
    losses = [[line["loss"] for line in log_lines(run)] for run in (one, two)]
    assert len(losses[0]) == 4
    assert losses[0][0] - losses[0][3] > 0.5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    norms = [[line["grad_norm"] for line in log_lines(run)] for run in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert difference(one, two) < 1e-5 < difference(one, one / "checkpoint-2")
    assert half_written(two) == []
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert ModelRecord.load(two).tokens == ModelRecord.load(one).tokens
    assert weights(two) == weights(two / "checkpoint-4")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_lists_of_one(folder, kind):
    """The same siblings whoever reads a row; batches differ in lists and tokens, and each weighs the same."""
    one, two = (log_lines(folder / f"listwise-{name}") for name in ("one", kind))
    for key in ("loss", "grad_norm", "listwise/rank_loss", "listwise/lm_loss", "listwise/nats_per_item"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=1e-4), key
    assert difference(folder / "listwise-one", folder / f"listwise-{kind}") < 1e-4


@pytest.mark.parametrize("pair", ["one-ddp", "one-fsdp2", "ddp-one", "fsdp2-one"])
def test_a_checkpoint_does_not_know_how_many_processes_wrote_it(folder, pair):
    whole, resumed = log_lines(folder / "one"), log_lines(folder / pair)
    assert [line["step"] for line in resumed] == [3, 4]
    for key in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert [line[key] for line in resumed] == pytest.approx([line[key] for line in whole[2:]], rel=1e-4), key
    assert difference(folder / pair, folder / "one") < 1e-5


def test_checkpoints_of_all_kinds_hold_the_same(folder):
    """Whole weights, and an optimizer state in torch's own form, read with `weights_only=True`."""
    plain = folder / "one" / "checkpoint-2"
    expected = torch.load(plain / "optimizer.pt", weights_only=True)
    schedule = torch.load(plain / "scheduler.pt", weights_only=True)
    for kind in KINDS:
        path = folder / kind / "checkpoint-2"
        random = {p.name for p in path.iterdir()} ^ {p.name for p in plain.iterdir()}
        assert random == {"rng_state.pth", "rng_state_0.pth", "rng_state_1.pth"}
        got = torch.load(path / "optimizer.pt", weights_only=True)
        assert got["param_groups"] == expected["param_groups"]
        assert got["state"].keys() == expected["state"].keys()
        for index, values in expected["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(got["state"][index][name], value, rtol=1e-3, atol=1e-6)
        assert torch.load(path / "scheduler.pt", weights_only=True) == schedule
        assert difference(path, plain) < 1e-5


def test_other_rows_in_a_step_are_refused_with_the_numbers(folder, flags_in):
    argv = flags_in(folder, "never", **{**ONE, "gradient_accumulation_steps": 1})
    argv += ["--resume_from_checkpoint", str(folder / "of-ddp" / "downloaded")]
    with pytest.raises(InputError) as error:
        cpt.main(argv)
    said = "a step read 4 rows and would read 2: `per_device_train_batch_size` 2 x `gradient_accumulation_steps` 1 x 1"
    assert said in str(error.value)
    assert not (folder / "never").exists()


@pytest.fixture(scope="module")
def by_hand(corpus, base_model):
    """The loss of all rows' completions and its gradient by name, in float64 and one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float64)
    encoder = Encoder(AutoTokenizer.from_pretrained(base_model))
    rows = pq.read_table(corpus / "sft-tools" / "train.parquet")
    prompts, completions = encoder.segments(rows["prompt"]), encoder.segments(rows["completion"])
    sums, counts = [], []
    for i in range(len(prompts)):
        prompt, completion = (torch.tensor(x.row(i).astype(np.int64)) for x in (prompts, completions))
        logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        sums.append(F.cross_entropy(logits, completion, reduction="sum"))
        counts.append(len(completion))
    loss = torch.stack(sums).sum() / sum(counts)
    unweighted = torch.stack([s / n for s, n in zip(sums, counts, strict=True)]).mean()
    assert abs(unweighted - loss) > 1e-4  # rows differ in length: a mean of their means is another number
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["one", *KINDS])
def test_each_token_weighs_the_same(folder, by_hand, base_model, kind):
    """Accumulated over ten batches, or five on each of two processes, with other counts of tokens in each."""
    loss, gradients = by_hand
    (line,) = log_lines(folder / f"gradient-{kind}")
    assert line["loss"] == pytest.approx(loss, rel=1e-6)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-5)
    before, after = (load_file(path / "model.safetensors") for path in (base_model, folder / f"gradient-{kind}"))
    assert gradients.keys() == after.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose((before[name] - after[name]) / 4, gradient, atol=1e-6 * norm + 1e-7, err_msg=name)
