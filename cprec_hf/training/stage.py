"""What the stages share around their own few lines: run length, schedule, model, record, and Ctrl-C."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from cprec_hf.corpus.load import corpus_tokenizer, load_facts
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.quiet import without_datasets_bars, without_transformers_bars
from cprec_hf.recipes import check_keys, find_recipe, read_yaml
from cprec_hf.training.arguments import StageArguments
from cprec_hf.training.checkpoints import newest_checkpoint
from cprec_hf.training.data import check_model, check_rows, corpus_table
from cprec_hf.training.packing import pack_rows
from cprec_hf.training.wsa import Phases, wsa_phases


@contextmanager
def quiet_and_resumable(stage: str, argv: Sequence[str]) -> Iterator[None]:
    """Keep libraries' progress bars off the console, and end a Ctrl-C in one message that says how to go on."""
    try:
        with without_datasets_bars(), without_transformers_bars():
            yield
    except KeyboardInterrupt:
        command = f"python -m cprec_hf.training.{stage} {shlex.join(argv)}"
        output_dir = _output_dir(argv)
        newest = newest_checkpoint(output_dir) if output_dir else None
        if newest is None:
            message = f"no checkpoint was saved yet; begin again with\n  {command}"
        else:
            message = (
                f"{newest} is complete; go on with\n  {command} --resume_from_checkpoint {shlex.quote(str(newest))}"
            )
        print(f"\n{stage}: interrupted. Nothing was left half-written; {message}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def run_as_command(main: Callable[[], Path]) -> None:
    """Run a stage's `main` for `python -m`: what the user must mend is one line and status 2, not a traceback."""
    try:
        main()
    except InputError as error:
        print(f"cprec: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def read_facts(arguments: StageArguments) -> dict[str, Any]:
    """The corpus' facts, with a template this release knows. Raises `InputError` otherwise."""
    facts = load_facts(arguments.corpus, arguments.corpus_revision)
    load_template(facts["template"]["version"])
    return facts


def load_model(model: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """The causal language model that a recipe names, and its tokenizer; an adapter comes merged into its base.

    Raises:
        InputError: no name, nothing there, or an adapter under a second adapter.
    """
    name, revision = model.model_name_or_path, model.model_revision
    if name is None:
        raise InputError("missing key `model_name_or_path`: a folder with a model, or a Hub repo")
    dtype = model.dtype if model.dtype in (None, "auto") else getattr(torch, model.dtype)
    options: dict[str, Any] = {"revision": revision, "dtype": dtype, "attn_implementation": model.attn_implementation}
    if model.load_in_4bit or model.load_in_8bit:
        raise InputError("`load_in_4bit` and `load_in_8bit` are not supported; train an adapter with `dtype: bfloat16`")
    adapter = (Path(name) / "adapter_config.json").exists()
    if adapter and model.use_peft:
        raise InputError(f"{name} is an adapter, and `use_peft` would put a second one on it; train on its base model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        if adapter:
            from peft import AutoPeftModelForCausalLM

            merged = AutoPeftModelForCausalLM.from_pretrained(name, **options).merge_and_unload()
            return merged.requires_grad_(True), tokenizer  # loaded for use, the base came frozen
        return AutoModelForCausalLM.from_pretrained(name, **options), tokenizer
    except (OSError, ValueError) as error:
        raise InputError(f"`model_name_or_path`: {name} cannot be loaded: {error}") from error


def item_table(arguments: StageArguments) -> pa.Table:
    """The corpus' items as they are saved beside a model: item_id, domain, title, full_title."""
    columns = ["item_id", "domain", "title", "full_title"]
    return corpus_table(arguments.corpus, arguments.corpus_revision, "items", "train", columns)


def prepare_rows(
    rows: datasets.Dataset, model: Any, training: Any, *, split_long: bool, where: str
) -> datasets.Dataset:
    """Check that the rows fit the run and the model, and pack them if the recipe says so.

    Args:
        rows: `input_ids` and `labels`.
        model: that will read them.
        training: gives `max_length`, `packing` and the seed.
        split_long: whether packing may split a row that is too long.
        where: the corpus and config, for messages.

    Raises:
        InputError: see `check_rows` and `check_model`.
    """
    length = int(training.max_length or 0)
    too_long = check_rows(rows, length, training.packing, split_long=split_long, where=where)
    check_model(model, rows, length)
    if too_long:
        print(
            f"{where}: {too_long:,} of {len(rows):,} documents are longer than {length} tokens and are split",
            flush=True,
        )
    return pack_rows(rows, length, training.seed) if training.packing else rows


def data_order(training: Any, rows: int, kinds: list[str] | None, item_share: float) -> dict[str, Any]:
    """All that the order of a run's rows depends on besides the corpus: with these equal, an anneal can go on in it."""
    batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    seed = training.seed if training.data_seed is None else training.data_seed
    return {"rows": rows, "kinds": kinds, "item_share": item_share, "batch": batch, "seed": seed}


def fix_run_length(training: Any, rows: int) -> None:
    """Turn `num_train_epochs` into `max_steps`, which wins if both are given; a run is counted in steps."""
    if training.max_steps <= 0:
        batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        training.max_steps = max(1, -(-int(training.num_train_epochs * rows) // batch))


def run_phases(training: Any) -> Phases | None:
    """The phases of a WSA run, None for another schedule. Raises `InputError` if they do not fit `max_steps`."""
    if training.lr_scheduler_type != "wsa":
        return None
    options: dict[str, Any] = dict(training.lr_scheduler_kwargs or {})
    known = set(inspect.signature(wsa_phases).parameters) - {"num_warmup_steps", "num_training_steps"}
    check_keys(options, known, "lr_scheduler_kwargs")
    return wsa_phases(training.get_warmup_steps(training.max_steps), training.max_steps, **options)


def make_record(
    stage: str,
    arguments: StageArguments,
    training: Any,
    facts: dict[str, Any],
    phases: Phases | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    base: str,
    domain: str | None = None,
    data: dict[str, Any] | None = None,
) -> ModelRecord:
    """What `cprec.json` will say of the model; the trainer fills in the tokens and the step.

    Args:
        stage: base, cpt, anneal, sft.
        arguments: name the corpus.
        training: the run.
        facts: of the corpus.
        phases: of the learning rate.
        tokenizer: the model's.
        base: the model the stage begins from.
        domain: for sft.
        data: what the order of the rows depends on, so that an anneal can go on in it.
    """
    try:
        parents = [*ModelRecord.load(base).parents, base]
    except InputError:  # a model of the Hub, not one of ours
        parents = [base] if base else []
    schedule: dict[str, Any] = {
        "type": str(training.lr_scheduler_type.value),
        "learning_rate": training.learning_rate,
        "max_steps": training.max_steps,
    }
    if phases is not None:
        schedule |= {"warmup_steps": phases.warmup, "stable_steps": phases.stable, "anneal_steps": phases.anneal}
        schedule |= {"anneal_shape": phases.shape, "min_lr_ratio": phases.min_lr_ratio}
    return ModelRecord(
        stage=stage,
        base=base,
        template_version=facts["template"]["version"],
        max_title_tokens=facts["template"]["max_title_tokens"],
        history_length=facts["template"]["history_length"],
        window_tokens=facts["template"]["window_tokens"] if _counts_alike(tokenizer, arguments) else None,
        candidate_list_in_prompt=facts["template"]["candidate_list_in_prompt"],
        domain=domain,
        corpus=arguments.corpus,
        corpus_revision=arguments.corpus_revision,
        corpus_hash=facts["content_sha256"],
        schedule=schedule | ({"data": data} if data else {}),
        tokens=0,
        seed=training.seed,
        parents=parents,
    )


def _counts_alike(tokenizer: PreTrainedTokenizerBase, arguments: StageArguments) -> bool:
    """Whether the corpus' sizes in tokens hold for the model, as far as the corpus' tokenizer can be had here."""
    try:
        return tokenizer.get_vocab() == corpus_tokenizer(arguments.corpus, arguments.corpus_revision).get_vocab()
    except InputError:
        return False


def _output_dir(argv: Sequence[str]) -> str | None:
    """The output folder a command line names, read without judging the rest of it."""
    for flag, value in pairwise([part for word in argv for part in word.split("=", 1)]):
        if flag == "--output_dir":
            return value
    try:
        return read_yaml(find_recipe(argv[list(argv).index("--config") + 1])).get("output_dir")
    except (InputError, ValueError, IndexError):
        return None
