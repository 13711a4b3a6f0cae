import pytest
import torch
from transformers.trainer_utils import SchedulerType

from cprec_hf.errors import InputError
from cprec_hf.training.arguments import BaseArguments, CptArguments, SftArguments, parse_stage

RECIPE = """
corpus: here
output_dir: out
max_steps: 5
learning_rate: 3e-4
warmup_steps: 0.1
kinds: [domain]
lr_scheduler_kwargs: {anneal_ratio: 0.5}
use_peft: true
lora_target_modules: [q_proj, v_proj]
"""


def write(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return ["--config", str(tmp_path / "recipe.yaml")]


def test_a_recipe_and_flags_that_win(tmp_path):
    argv = [*write(tmp_path, RECIPE), "--max_steps", "7", "--kinds", "domain", "all_domain", "--packing", "false"]
    arguments, training, model, given = parse_stage("cpt", CptArguments, argv)
    assert (arguments.corpus, arguments.kinds, arguments.overwrite) == ("here", ["domain", "all_domain"], False)
    assert (training.max_steps, training.learning_rate, training.warmup_steps) == (7, 3e-4, 0.1)
    assert (training.packing, training.lr_scheduler_kwargs) == (False, {"anneal_ratio": 0.5})
    assert model.lora_target_modules == ["q_proj", "v_proj"]
    assert {"corpus", "kinds", "packing", "max_steps"} <= given
    assert "seed" not in given


def test_defaults_that_suit_the_machine(tmp_path):
    _, training, model, _ = parse_stage("cpt", CptArguments, ["--corpus", "c", "--output_dir", str(tmp_path)])
    assert training.lr_scheduler_type is SchedulerType.WSA
    assert (training.packing, training.packing_strategy) == (True, "bfd_split")
    assert model.lora_target_modules == "all-linear"
    if not torch.cuda.is_available():
        assert (training.use_cpu, training.bf16, training.activation_checkpointing) == (True, False, False)
        assert training.device.type == "cpu"
    assert training.report_to == []


def test_a_bare_switch(tmp_path):
    arguments, *_ = parse_stage("sft", SftArguments, ["--corpus", "c", "--output_dir", "o", "--overwrite"])
    assert arguments.overwrite is True


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        ("corpus: c\noutput_dir: o\nlearning_rat: 1", [], "unknown key `learning_rat`; did you mean `learning_rate`?"),
        ("corpus: c\noutput_dir: o\nwarmup_ratio: 0.1", [], "unknown key `warmup_ratio`"),
        ("corpus: c\noutput_dir: o", ["--kind", "domain"], "unknown key `kind`; did you mean `kinds`?"),
        ("output_dir: o", [], "required: --corpus"),
        ("corpus: c", [], "missing key `output_dir`"),
        ("corpus: c\noutput_dir: o\nmax_steps: many", [], "invalid int value: 'many'"),
        ("corpus: c\noutput_dir: o\nmax_steps: 2.5", [], "invalid int value: '2.5'"),
        ("corpus: c\noutput_dir: o\nlr_scheduler_type: wsb", [], "wsb"),
        ("corpus: c\noutput_dir: o\neval_strategy: sometimes", [], "sometimes"),
        ("corpus: c\noutput_dir: o\nsave_strategy: epoch", [], "use `steps`"),
        ("corpus: c\noutput_dir: o\nhub_revision: v1", [], "`hub_revision` has no place in cpt: the finished model"),
        ("corpus: c\noutput_dir: o\ntrust_remote_code: true", [], "no code of a repo is run"),
        ("- corpus", [], "expected `key: value` lines"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(tmp_path, recipe, flags, said):
    with pytest.raises(InputError) as error:
        parse_stage("cpt", CptArguments, [*write(tmp_path, recipe), *flags])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_there():
    with pytest.raises(InputError, match=r"no recipe nowhere\.yaml"):
        parse_stage("cpt", CptArguments, ["--config", "nowhere.yaml"])
    with pytest.raises(InputError, match="--config needs the path"):
        parse_stage("cpt", CptArguments, ["--config"])


def test_help_names_our_keys(capsys):
    with pytest.raises(SystemExit) as done:
        parse_stage("base", BaseArguments, ["--help"])
    assert done.value.code == 0
    assert "--num_hidden_layers" in capsys.readouterr().out
