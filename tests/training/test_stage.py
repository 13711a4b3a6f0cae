"""What all stages share: Ctrl-C wherever it strikes, several processes, and one line for what the user must mend."""

import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer
from trl import SFTConfig

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.models import is_plain
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.recipes import find_recipe
from cprec_hf.training import anneal, base, cpt, saving, sft
from cprec_hf.training.checkpoints import newest_checkpoint
from cprec_hf.training.trainer import StageTrainer
from training.runs import BASE, BRANCH, half_written, interrupt_at, weights


@pytest.fixture
def runs(flags):
    """`runs[stage]()`: the stage's main and a command line for it that saves every second step."""

    def trunk():
        return cpt.main(flags("trunk", max_steps=2, save_steps=1))

    return {
        "base": lambda: (base, flags("out", **{**BASE, "max_steps": 6}, save_steps=2)),
        "cpt": lambda: (cpt, flags("out", max_steps=6, save_steps=2)),
        "anneal": lambda: (anneal, flags("out", **BRANCH, init_from=trunk(), anneal_steps=4, save_steps=2)),
        "sft": lambda: (sft, flags("out", max_steps=6, save_steps=2, eval_strategy="steps", eval_steps=2)),
    }


@pytest.mark.parametrize("stage", ["base", "cpt", "anneal", "sft"])
@pytest.mark.parametrize("moment", ["between steps", "while a checkpoint is saved", "while the model is saved"])
def test_ctrl_c(runs, stage, moment, monkeypatch, capsys, tmp_path):
    module, argv = runs[stage]()
    whole = StageTrainer._describe

    def describe(self, folder, step):
        whole(self, folder, step)
        if (moment == "while the model is saved") == (folder.name == ".final.tmp") and step >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
        if moment == "between steps":
            interrupt_at(5, patch)
        else:
            patch.setattr(StageTrainer, "_describe", describe)
        module.main(argv)
    out, said = tmp_path / "out", capsys.readouterr().err
    assert done.value.code == 130
    assert half_written(out) == []
    assert {p.name for p in out.iterdir()} == {"log.jsonl", *(p.name for p in out.glob("checkpoint-*"))}
    newest = newest_checkpoint(out)
    steps = {int(p.name.split("-")[1]) for p in out.glob("checkpoint-*")}
    if stage == "anneal" and moment == "while a checkpoint is saved":
        assert steps == set()
    else:
        assert newest is not None
        assert newest.name == f"checkpoint-{max(steps)}"
    command = f"python -m cprec_hf.training.{stage}"
    assert said.count(command) == 1
    assert "interrupted" in said
    assert (f"--resume_from_checkpoint {newest}" in said) == (newest is not None)

    assert (module.main([*argv, "--resume_from_checkpoint", "true"]) / "cprec.json").exists()
    assert half_written(out) == []


def test_what_the_user_must_mend_is_one_line(flags, capsys):
    with pytest.raises(SystemExit) as done:
        run_as_command(lambda: cpt.main(flags("out", learning_rat=1)))
    assert done.value.code == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "cprec: the command line: unknown key `learning_rat`; did you mean `learning_rate`?\n",
    )


@pytest.fixture
def warned(monkeypatch):
    """What transformers' trainer warns of, which the tests' environment otherwise keeps down."""
    said, logger = [], logging.getLogger("transformers.trainer")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield said
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_the_console_is_ours_and_real_warnings_stay(flags, warned, monkeypatch, capfd):
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)  # as on a user's console
    argv = flags("out", max_steps=2, save_steps=1)
    out = cpt.main(argv)
    first = out / "checkpoint-1"
    cpt.main([*argv, "--resume_from_checkpoint", str(first)])
    Recommender.from_pretrained(out, device="cpu").save_pretrained(out.parent / "again")
    assert "Loading weights" not in (said := capfd.readouterr().err)
    assert "Writing model shards" not in said
    assert not any("keys" in line for line in warned)

    tensors = load_file(first / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, first / "model.safetensors", {"format": "pt"})
    cpt.main([*argv, "--resume_from_checkpoint", str(first)])
    assert [line for line in warned if "keys" in line] == [
        "There were missing keys in the checkpoint model loaded: ['model.norm.weight']."
    ]


def test_a_trunk_and_its_anneal_take_each_their_share_of_item_documents(flags, corpus, base_model, capsys):
    encoder = Encoder(AutoTokenizer.from_pretrained(base_model))
    behaviour, items = (
        encoder.documents(pq.read_table(corpus / config / "train.parquet")["text"]).lengths
        for config in ("cpt", "items")
    )

    def check(share):
        tokens, rows = re.search(r"([\d,]+) tokens in ([\d,]+) rows", capsys.readouterr().out).groups()
        tokens, rows = int(tokens.replace(",", "")), int(rows.replace(",", ""))
        added = tokens - behaviour.sum()
        assert rows > len(behaviour)
        assert added / tokens <= share < (added + items.max()) / (tokens + items.max())

    trunk = cpt.main(flags("trunk", max_steps=1, packing=False, item_share=0.3))
    check(0.3)
    anneal.main(flags("branch", **BRANCH, init_from=trunk, anneal_steps=1, packing=False, item_share=0.6))
    check(0.6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cpu", "NO"), ("single_gpu", "NO"), ("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("fsdp2_multinode", "FSDP"),
        ("deepspeed_zero3", "DEEPSPEED"),
    ],
)  # fmt: skip
def test_accelerate_reads_the_recipes(name, kind):
    config = load_config_from_file(str(find_recipe(f"accelerate/{name}.yaml")))
    assert config.distributed_type.value == kind
    assert config.use_cpu == (name == "cpu")
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == 3
        assert config.deepspeed_config["zero3_save_16bit_model"]
    if kind == "FSDP":
        assert config.num_machines == (2 if name == "fsdp2_multinode" else 1)
        assert (config.fsdp_config["fsdp_version"], config.fsdp_config["fsdp_state_dict_type"]) == (
            2,
            "FULL_STATE_DICT",
        )


def test_a_run_never_empties_the_folder_it_reads_from(flags, corpus, base_model, tmp_path):
    shutil.copytree(base_model, tmp_path / "run" / "model")
    shutil.copytree(corpus, tmp_path / "run" / "corpus")
    (tmp_path / "run" / "log.jsonl").touch()  # as a run's folder, which --overwrite may empty
    model = tmp_path / "run" / "model"
    for stage, keys in (
        (cpt, {"model_name_or_path": model}),
        (sft, {"model_name_or_path": model}),
        (cpt, {"corpus": tmp_path / "run" / "corpus"}),
        (base, {**BASE, "corpus": tmp_path / "run" / "corpus"}),
    ):
        with pytest.raises(InputError, match="would be emptied"):
            stage.main([*flags("run", **keys), "--overwrite"])
    for name in ("run/model", "run/model/checkpoint-3", "run/checkpoint-3"):
        with pytest.raises(InputError, match="would be emptied"):
            cpt.main([*flags(name, model_name_or_path=model), "--overwrite"])
    assert weights(model) == weights(base_model)
    assert (tmp_path / "run" / "corpus" / "cprec-corpus.json").exists()
    assert cpt.main(flags("run/model/next", model_name_or_path=model, max_steps=1)).exists()


def test_weights_cut_short_are_one_sentence(flags, base_model, tmp_path):
    shutil.copytree(base_model, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights(base_model)[:-8])
    for stage in (cpt, sft):
        with pytest.raises(InputError, match=r"`model_name_or_path`: .*cut: cannot load its model"):
            stage.main(flags("out", model_name_or_path=tmp_path / "cut"))
    assert not (tmp_path / "out").exists()


def test_item_documents_that_no_one_reads_are_not_encoded(flags, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    items = pq.read_table(tmp_path / "corpus" / "items" / "train.parquet")
    pq.write_table(items.drop_columns("text"), tmp_path / "corpus" / "items" / "train.parquet")
    trunk = cpt.main(flags("trunk", corpus=tmp_path / "corpus", max_steps=1))
    anneal.main(flags("branch", **BRANCH, corpus=tmp_path / "corpus", init_from=trunk, anneal_steps=1))


@pytest.mark.parametrize(
    ("done", "existing", "limit", "checkpoints"),
    [(0, 0, None, 6), (6, 0, None, 3), (6, 3, None, 3), (0, 0, 2, 3), (6, 2, 2, 1), (6, 1, 2, 2), (10, 5, None, 1)],
)
def test_room_is_asked_for_what_a_run_will_add(monkeypatch, done, existing, limit, checkpoints):
    """Ten steps, saved every second: what is still to come, the model (or the one before its predecessor goes)."""
    asked = []
    monkeypatch.setattr(saving, "require_free_space", lambda path, n_bytes: asked.append(n_bytes))
    args = SFTConfig("out", max_steps=10, save_steps=2, save_total_limit=limit, use_cpu=True, bf16=False)
    saving.require_space(args, done, existing, 100)
    assert asked == [checkpoints * 100 * 12]


def test_ctrl_c_amid_the_last_renames_waits_for_them(flags, tmp_path, monkeypatch):
    """Whatever moment it strikes at: the model that was there, or the new one, is whole."""
    old = cpt.main(flags("out", max_steps=1))
    argv = [*flags("out", max_steps=2, save_steps=1), "--overwrite"]
    before, replace = weights(old), Path.replace

    def interrupted(self, target):
        if self.parent.name == ".final.tmp" and self.name == "model.safetensors":
            os.kill(os.getpid(), signal.SIGINT)
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
        patch.setattr(Path, "replace", interrupted)
        cpt.main(argv)
    assert done.value.code == 130
    assert half_written(old) == []
    assert weights(old) == weights(old / "checkpoint-2") != before
    assert ModelRecord.load(old).schedule["step"] == 2
    assert Recommender.from_pretrained(old, device="cpu").domains == ["Books", "Tools", "Toys"]


def test_a_run_killed_amid_the_last_renames_does_not_look_like_a_plain_model(flags, tmp_path, monkeypatch):
    replace, moved = Path.replace, []

    def killed(self, target):
        if self.parent.name == ".final.tmp" and not self.name.startswith("."):
            moved.append(self.name)
            if len(moved) > 1:
                raise OSError("killed")
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(Path, "replace", killed)
        cpt.main(flags("out", max_steps=1))
    assert moved[0] == "items.parquet"
    assert not is_plain(str(tmp_path / "out"), None)
    assert not (tmp_path / "out" / "cprec.json").exists()


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
def test_stages_read_the_hub_at_one_commit_and_record_it(flags, corpus, base_model, hub_machine, tmp_path):
    """A model and a corpus of the Hub, then an adapter of the Hub: merged before it is trained on."""
    model, model_commit = hub_machine.push(base_model, "model")
    data, data_commit = hub_machine.push(corpus, "corpus", "dataset")
    lora = sft.main(flags("lora", use_peft="true", lora_r=2, max_steps=2))
    adapter, adapter_commit = hub_machine.push(lora, "adapter")
    runs = [
        ("cpt", flags("cpt", corpus=data, model_name_or_path=model, max_steps=1)),
        ("sft", flags("tuned", corpus=data, model_name_or_path=adapter, max_steps=1)),
        ("sft", flags("twice", corpus=data, model_name_or_path=model, use_peft="true", lora_r=2, max_steps=1)),
    ]
    hub_machine.run(
        """
        import json, sys
        from importlib import import_module
        for stage, argv in json.loads(sys.argv[1]):
            import_module(f"cprec_hf.training.{stage}").main(argv)
        print("null")
        """,
        json.dumps(runs),
    )
    trunk, tuned = (ModelRecord.load(tmp_path / name) for name in ("cpt", "tuned"))
    for record in (trunk, tuned):
        assert (record.corpus, record.corpus_revision) == (data, data_commit)
    assert (trunk.base, trunk.base_revision, trunk.parents) == (model, model_commit, [f"{model}@{model_commit}"])
    assert (tuned.base, tuned.base_revision) == (adapter, adapter_commit)
    assert tuned.parents == [str(base_model), f"{adapter}@{adapter_commit}"]
    here = sft.main(flags("here", model_name_or_path=lora, max_steps=1))
    assert weights(tmp_path / "tuned") == weights(here)
    assert not (tmp_path / "tuned" / "adapter_config.json").exists()
    config = json.loads((tmp_path / "twice" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (model, model_commit)
