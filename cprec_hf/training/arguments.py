"""What a training recipe may say: a stage's own keys, and those of trl.SFTConfig and trl.ModelConfig.

    python -m cprec_hf.training.cpt --config recipes/tiny/cpt.yaml --max_steps 200

Recipes hold only what differs from the defaults; the defaults that differ from TRL's stand in `stage_defaults`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import trl

from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys, find_recipe, read_yaml
from cprec_hf.training.pushing import check_pushes
from cprec_hf.training.refused import refuse_idle_keys


def _field(help: str, default: Any = None) -> Any:
    """A dataclass field whose help `--help` shows."""
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class StageArguments:
    """Keys of every stage."""

    corpus: str = field(metadata={"help": "Folder or Hub repo of the corpus."})
    corpus_revision: str | None = _field("Branch, tag or commit of the corpus' repo.")
    overwrite: bool = _field("Replace what an earlier run left in output_dir.", False)
    loss_head: str = _field("Kernels of the loss: auto, liger, trl or torch; see cprec_hf/training/kernels.py.", "auto")


@dataclass(kw_only=True)
class BaseArguments(StageArguments):
    """Keys of `base`: the shape of a compact Qwen3. Names and meaning are transformers.Qwen3Config's."""

    hidden_size: int = _field("Width of the model.", 128)
    num_hidden_layers: int = _field("Layers.", 3)
    num_attention_heads: int = _field("Attention heads.", 4)
    num_key_value_heads: int | None = _field("Key and value heads; as many as attention heads if not given.")
    head_dim: int | None = _field("Width of a head; hidden_size / num_attention_heads if not given.")
    intermediate_size: int | None = _field("Width of the feed-forward layers; 8/3 of hidden_size if not given.")
    max_position_embeddings: int = _field("Longest context, in tokens.", 1024)


@dataclass(kw_only=True)
class MixtureArguments(StageArguments):
    """Keys of `cpt` and `anneal`: what is read."""

    kinds: list[str] | None = field(
        default=None,
        metadata={
            "help": "Kinds of document to train on; all but controls (cprec_hf/corpus/controls.py) if not given."
        },
    )
    item_share: float = _field(
        "Share of the tokens that are item documents: titles, categories, descriptions of all domains, downstream too, "
        "and no behaviour, so that the words of domains without behaviour are not forgotten.",
        0.0,
    )
    mixture: dict | str | None = field(
        default=None,
        metadata={
            "help": "Weights of the kinds of document, `items` among them, as shares of the tokens: "
            "{domain: 1, all_domain: 2}; or those of each phase: {stable: {...}, anneal: {...}}. In place of kinds and "
            "item_share."
        },
    )
    domain_temperature: float | None = _field(
        "T of `mixture`: a kind's tokens are shared among its domains by their sizes to the power of 1/T; 1 as the "
        "corpus has them, larger is more even, .inf equal. Not given, a kind's domains are packed and read together."
    )
    replay: dict | str | None = field(
        default=None,
        metadata={
            "help": "General text to read beside behaviour, with the weight of `replay` in `mixture`: {dataset: a repo "
            "or files, tokens: most to take, column, config, split, revision}; see cprec_hf/training/replay.py."
        },
    )
    average_checkpoints: int | None = _field(
        "The finished model is the mean of the weights of the run's last so many checkpoints."
    )
    probe_domain: str | None = _field("A downstream domain whose validation rows are ranked at each evaluation.")
    probe_users: int = _field("How many of them, the first of the split.", 200)

    def __post_init__(self) -> None:
        if isinstance(self.mixture, str):  # of a flag
            try:
                self.mixture = json.loads(self.mixture)
            except ValueError as error:
                raise InputError(f"`mixture` is {self.mixture!r}, not valid JSON: {error}") from None


@dataclass(kw_only=True)
class CptArguments(MixtureArguments):
    """Keys of `cpt`."""

    new_tokens: list[str] | None = field(
        default=None, metadata={"help": "Tokens to extend the vocabulary by; they begin as the mean of their pieces."}
    )
    new_token_steps: int = _field("First steps, in which nothing but the new tokens' rows is trained.", 0)
    token_budget: int | None = _field(
        "The run's length in tokens, in place of max_steps: it reads exactly so many, whatever kinds of document."
    )


@dataclass(kw_only=True)
class AnnealArguments(MixtureArguments):
    """Keys of `anneal`; `corpus`, `kinds` and `mixture` are its own."""

    init_from: str = field(
        metadata={
            "help": "A trunk: the output of `cpt` (its newest checkpoint), a checkpoint-N, or repo@trunk-step-N of the "
            "Hub. Also --from."
        }
    )
    anneal_steps: int = field(metadata={"help": "Steps of the anneal."})
    continue_data: bool = _field(
        "Go on where the trunk stopped reading, in its order (same corpus, kinds, batch and seed); "
        "otherwise the data is read from its beginning.",
        False,
    )


@dataclass(kw_only=True)
class SftArguments(StageArguments):
    """Keys of `sft`."""

    domain: str | None = _field("The domain to fine-tune on; needed if the corpus has more than one for it.")
    early_stopping_patience: int | None = _field(
        "Stop after so many evaluations (every eval_steps) without a better ranking of the validation candidates, and "
        "keep the best model."
    )
    probe_users: int = _field("Validation rows ranked at each evaluation, the first of the split.", 200)
    train_share: float | None = _field(
        "Few-shot: train on the rows of this share of the users only (0.01: one in a hundred, rounded up). A smaller "
        "share's users are among a larger one's."
    )
    subset_seed: int | None = _field(
        "Draws other users for `train_share` than the corpus froze, which all runs share; apart from `seed`."
    )


@dataclass(kw_only=True)
class PreferenceArguments(SftArguments):
    """Keys of `preference`; `beta` is TRL's."""

    negatives: int = _field("Completions that each target is preferred to: 1 is DPO, more is S-DPO.", 3)


@dataclass(kw_only=True)
class PointwiseArguments(SftArguments):
    """Keys of `pointwise`."""

    negatives: int = _field("Questions answered no for each answered yes.", 1)


@dataclass(kw_only=True)
class ListwiseArguments(SftArguments):
    """Keys of `listwise`; formulas in cprec_hf/training/listwise_loss.py."""

    negatives: int = _field("Siblings K that each target is compared with.", 6)
    negative_source: str = _field(
        "Where they come from: uniform, popularity or in_batch (both with the log-q correction), or category; see "
        "cprec_hf/training/listwise_negatives.py.",
        "uniform",
    )
    positions: str = _field("Which items of a history are targets: every, or last.", "every")
    min_history: int = _field("Items of the history that a target has before it, at least.", 1)
    lm_weight: float = _field("Weight of the language-model loss on the histories beside the rank loss.", 0.3)
    reference: bool = _field(
        "Score by the log-ratio to the start (S-DPO's loss at every position; with one negative DPO's).", False
    )
    beta: float = _field("Multiplies all scores of a list.", 1.0)
    length_normalise: bool = _field("Score by the mean log-probability of a title's tokens, not their sum.", False)


STAGES: dict[str, type[StageArguments]] = {
    "base": BaseArguments,
    "cpt": CptArguments,
    "anneal": AnnealArguments,
    "sft": SftArguments,
    "preference": PreferenceArguments,
    "pointwise": PointwiseArguments,
    "listwise": ListwiseArguments,
}
"""The keys of each stage."""


class _Parser(trl.TrlParser):
    """TRL's parser, whose complaints are ours: no usage of 300 lines, no exit."""

    where: str

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.where}: {message}")


Arguments = TypeVar("Arguments", bound=StageArguments)


def stage_defaults() -> dict[str, Any]:
    """Our defaults where TRL's do not fit: packing, WSA, and on a CPU full precision without recomputation."""
    gpu = torch.cuda.is_available()
    return {
        "lr_scheduler_type": "wsa",
        "report_to": "trackio" if importlib.util.find_spec("trackio") else "none",  # it keeps what it gets here
        "project": "cprec",
        "packing": True,
        "packing_strategy": "bfd_split",
        "lora_target_modules": ["all-linear"],
        "disable_tqdm": True,  # our own line says more
        "use_cpu": not torch.accelerator.is_available(),
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "activation_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
    }


def parse_stage(
    stage: str, cls: type[Arguments], argv: Sequence[str], config: type[Any] = trl.SFTConfig
) -> tuple[Arguments, Any, Any, set[str]]:
    """Read `--config RECIPE` and flags, flags winning, into the stage's arguments, TRL's, and the model's.

    Args:
        stage: base, cpt, anneal, sft, preference, pointwise, listwise.
        cls: the stage's dataclass.
        argv: the command line after the module's name.
        config: of the trainer: trl.SFTConfig, or trl.DPOConfig for preference.

    Returns:
        The three (a `cls`, a `config` and a trl.ModelConfig), and the keys that the recipe or a flag gave.

    Raises:
        InputError: an unknown key or flag (with the nearest valid one), a missing key, a value of the wrong type, or a
            key that the stage would not act on.
    """
    flags, values, where = list(argv), {}, "the command line"
    if "--config" in flags:
        at = flags.index("--config")
        if at + 1 == len(flags):
            raise InputError("--config needs the path of a recipe")
        file = find_recipe(flags[at + 1])
        values, where = read_yaml(file), str(file)
        del flags[at : at + 2]
    classes: list[Any] = [cls, config, trl.ModelConfig]
    known = {f.name for c in classes for f in dataclasses.fields(c) if f.init}
    given_flags = [flag[2:].split("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")]
    _refuse_keys_of_others(stage, {*values, *given_flags} - known, where)
    check_keys(values, known, where)
    check_keys((f for f in given_flags if f != "help"), known | {f"no_{name}" for name in known}, "the command line")
    given = {*values, *(flag if flag in known else flag.removeprefix("no_") for flag in given_flags)}
    if "help" not in given and "output_dir" not in given:
        raise InputError(f"{where}: missing key `output_dir`")

    parser = _Parser(classes)
    parser.where = where
    # argparse checks the type of a default only if it is a string, as a YAML "3e-4" already is.
    scalars = {k: str(v) if type(v) in (int, float) else v for k, v in values.items()}
    defaults = {key: value for key, value in stage_defaults().items() if key in known}
    parser.set_defaults_with_config(**{**defaults, **scalars})
    try:
        arguments, training, model = parser.parse_args_into_dataclasses(args=flags)
    except InputError:
        raise
    except ValueError as error:  # TrainingArguments checks its values against each other
        raise InputError(f"{where}: {error}") from None
    refuse_idle_keys(stage, given, training, model, where)
    check_pushes(stage, given, training, where)
    if "run_name" not in given:
        training.run_name = Path(training.output_dir).name  # what is resumed goes on as the same run
    for key in ("eval_strategy", "save_strategy"):
        if getattr(training, key).value == "epoch":
            raise InputError(f"{where}: `{key}: epoch` has no meaning in a run counted in steps; use `steps`")
    return arguments, training, model, given


def _refuse_keys_of_others(stage: str, unknown: set[str], where: str) -> None:
    """Refuse a key that only other stages have, by their names instead of the nearest spelling."""
    for key in sorted(unknown):
        others = [name for name, cls in STAGES.items() if key in {f.name for f in dataclasses.fields(cls)}]
        if others:
            raise InputError(f"{where}: `{key}` has no place in {stage}: it is a key of {' and '.join(others)}")
