"""A key that a stage would not act on is refused, with the reason; the value that says what is done anyway is not."""

import dataclasses

import pytest
import trl

from cprec_hf.errors import InputError
from cprec_hf.training import refused
from cprec_hf.training.arguments import (
    AnnealArguments,
    BaseArguments,
    CptArguments,
    PointwiseArguments,
    PreferenceArguments,
    SftArguments,
    StageArguments,
    parse_stage,
)

ALONE = {
    "base": BaseArguments,
    "cpt": CptArguments,
    "anneal": AnnealArguments,
    "sft": SftArguments,
    "pointwise": PointwiseArguments,
}


def parse(stage, tmp_path, **keys):
    own = {"init_from": "trunk", "anneal_steps": 2} if stage == "anneal" else {}
    flags = {"corpus": "c", "output_dir": tmp_path / "o"} | own | keys
    return parse_stage(stage, ALONE[stage], [part for k, v in flags.items() for part in (f"--{k}", str(v))])


@pytest.mark.parametrize("stage", ALONE)
@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"trust_remote_code": "true"}, "`trust_remote_code` has no place in .*no code of a repo is run"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` has no place"),
        ({"loss_type": "dft"}, "`loss_type` .*mean negative log-likelihood"),
        ({"packing_strategy": "bfd"}, "`packing_strategy`"),
        ({"padding_free": "true"}, "`padding_free`"),
        ({"train_sampling_strategy": "group_by_length"}, "rows come in an order of their own"),
        ({"auto_find_batch_size": "true"}, "rows come in an order of their own"),
        ({"shuffle_dataset": "true"}, "rows come in an order of their own"),
        ({"ignore_data_skip": "true"}, "rows come in an order of their own"),
        ({"assistant_only_loss": "true"}, "no row is a conversation"),
        ({"use_liger_kernel": "true"}, "wherever there is a GPU"),
        ({"load_in_4bit": "true"}, "not supported"),
        ({"hub_always_push": "true"}, "every save is pushed, in order"),
        ({"hub_token": "hf_x"}, "a recipe is no place for secrets"),
        ({"truncation_mode": "keep_end"}, "none is cut"),
    ],
)
def test_keys_that_no_stage_acts_on(stage, keys, why, tmp_path):
    with pytest.raises(InputError, match=why) as error:
        parse(stage, tmp_path, **keys)
    assert str(error.value).count("the command line") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("stage", "keys", "why"),
    [
        ("base", {"eval_strategy": "steps", "eval_steps": 2}, "no validation rows"),
        ("base", {"dtype": "bfloat16"}, "builds a new model"),
        ("base", {"model_name_or_path": "m"}, "use `cpt`"),
        ("base", {"attn_implementation": "eager"}, "builds a new model"),
        ("anneal", {"dtype": "bfloat16"}, "as the trunk's"),
        ("anneal", {"optim": "sgd"}, "the optimizer and its state are the trunk's"),
        ("anneal", {"adam_beta2": 0.9}, "the optimizer and its state are the trunk's"),
        ("cpt", {"completion_only_loss": "true"}, "documents are no completions"),
        ("cpt", {"lora_r": 8}, "give `use_peft: true`"),
        ("sft", {"use_dora": "true"}, "give `use_peft: true`"),
        ("sft", {"mixture": '{"domain": 1}'}, "`mixture` has no place in sft: it is a key of cpt and anneal"),
        ("base", {"average_checkpoints": 2}, "`average_checkpoints` has no place in base: .* of cpt and anneal"),
        ("cpt", {"anneal_steps": 2}, "`anneal_steps` has no place in cpt: it is a key of anneal"),
        ("pointwise", {"completion_only_loss": "true"}, "the loss is over the answers"),
    ],
)
def test_keys_that_one_stage_does_not_act_on(stage, keys, why, tmp_path):
    with pytest.raises(InputError, match=why):
        parse(stage, tmp_path, **keys)


def test_saying_what_is_done_anyway_is_no_error(tmp_path):
    parse("cpt", tmp_path, packing_strategy="bfd_split", trust_remote_code="false", label_smoothing_factor="0")
    parse("base", tmp_path, eval_strategy="no")
    parse("sft", tmp_path, completion_only_loss="true", use_peft="true", lora_r=4, eval_strategy="steps", eval_steps=2)


def test_the_tables_name_keys_of_trl_and_their_defaults():
    """A key that TRL renames would be refused by nobody; a default that moves would refuse what nobody asked for."""
    fields = {f.name: f for c in (trl.SFTConfig, trl.ModelConfig, StageArguments) for f in dataclasses.fields(c)}
    for key, (value, _) in refused._FIXED.items():
        assert key in fields
        default = fields[key].default
        assert key == "packing_strategy" or getattr(default, "value", default) == value, key
    for keys in refused._NO_PLACE.values():
        assert keys.keys() <= fields.keys()
    assert set(refused._LORA) <= fields.keys()


def test_preferences_own_table_names_keys_of_dpo_and_their_defaults(tmp_path):
    fields = {f.name: f for f in dataclasses.fields(trl.DPOConfig)}
    for key, (value, _) in refused._FIXED_OF["preference"].items():
        default = fields[key].default
        found = fields[key].default_factory() if default is dataclasses.MISSING else default
        assert getattr(found, "value", found) == value, key
    argv = ["--corpus", "c", "--output_dir", str(tmp_path / "o")]
    for flags, why in (
        (["--loss_type", "hinge"], "`loss_type` has no place in preference: the loss is the softmax DPO"),
        (["--ld_alpha", "0.5"], "`ld_alpha`"),
        (["--label_smoothing", "0.1"], "`label_smoothing`"),
        (["--pad_to_multiple_of", "8"], "as wide as its longest row"),
        (["--truncation_mode", "keep_end"], "none is cut"),
        (["--lora_r", "4"], "give `use_peft: true`"),
    ):
        with pytest.raises(InputError, match=why):
            parse_stage("preference", PreferenceArguments, [*argv, *flags], trl.DPOConfig)
    parse_stage("preference", PreferenceArguments, [*argv, "--loss_type", "sigmoid", "--beta", "1"], trl.DPOConfig)
