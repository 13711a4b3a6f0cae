"""What the stages share around their own few lines: run length, schedule, model, record, and Ctrl-C."""

from __future__ import annotations

import inspect
import math
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase, get_scheduler

from cprec_hf.corpus.load import corpus_commit, counts_alike, load_facts
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.corpus.tokenizer import load_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.hub.files import local_path
from cprec_hf.quiet import without_datasets_bars, without_transformers_bars
from cprec_hf.ranking.loading import load_model, locate
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
            message = f"no checkpoint was saved yet; begin again with\n  {command} --resume_from_checkpoint true"
        else:
            message = (
                f"{newest} is complete; go on with\n  {command} --resume_from_checkpoint {shlex.quote(str(newest))}"
            )
        print(f"\n{stage}: interrupted. Nothing was left half-written; {message}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def read_facts(arguments: StageArguments) -> dict[str, Any]:
    """The corpus' facts, with a template this release knows; of a repo, all later reads are of the commit found here.

    Raises:
        InputError: no such corpus, or of another release.
    """
    arguments.corpus_revision = corpus_commit(arguments.corpus, arguments.corpus_revision)
    facts = load_facts(arguments.corpus, arguments.corpus_revision)
    load_template(facts["template"]["version"])
    return facts


def refuse_own_input(training: Any, *inputs: str | None) -> None:
    """Refuse an `output_dir` in which the run would delete what it reads.

    Args:
        training: gives `output_dir`.
        inputs: the model and the corpus; what is no folder here is passed over.

    Raises:
        InputError: `output_dir` is an input, holds one, or is a checkpoint beside or below one.
    """
    out = Path(training.output_dir).expanduser().resolve()
    for given in inputs:
        path = Path(given or "").expanduser().resolve()
        if not given or not path.is_dir():
            continue
        checkpoint = re.fullmatch(r"checkpoint-\d+", out.name) and out.parent in (path, path.parent)
        if out == path or out in path.parents or checkpoint:
            raise InputError(
                f"`output_dir` {training.output_dir} would be emptied, and {given}, which is read, is that very folder "
                "or of it; choose another"
            )


def load_start(model: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """The causal language model that a recipe names, and its tokenizer; an adapter comes merged into its base.

    Args:
        model: a trl.ModelConfig; its `model_revision` becomes the commit that is read, None for a folder.

    Raises:
        InputError: no name, nothing there, not loadable, or an adapter under a second adapter.
    """
    name = model.model_name_or_path
    if name is None:
        raise InputError("missing key `model_name_or_path`: a folder with a model, or a Hub repo")
    dtype = model.dtype if model.dtype in (None, "auto") else getattr(torch, model.dtype)
    here = Path(name).expanduser().is_dir() and model.model_revision == "main"  # TRL's default
    try:
        adapter, model.model_revision = locate(name, None if here else model.model_revision)
        if adapter and model.use_peft:
            raise InputError(f"{name} is an adapter, and `use_peft` would put a second on it; train on its base model")
        tokenizer = load_tokenizer(name, model.model_revision)
        loaded = load_model(name, model.model_revision, dtype=dtype, attn_implementation=model.attn_implementation)
    except InputError as error:
        raise InputError(f"`model_name_or_path`: {error}") from None
    # Loaded for use, an adapter's base came frozen.
    return loaded.merge_and_unload().requires_grad_(True) if adapter else loaded, tokenizer


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
    order: dict[str, Any] = {"rows": rows, "kinds": kinds, "item_share": item_share}
    order["batch"] = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    order["seed"] = training.seed if training.data_seed is None else training.data_seed
    # The rows themselves: which item documents are drawn, and what is packed with what (of preference's, nothing).
    packing = getattr(training, "packing", False)
    return order | {"rows_seed": training.seed, "packing": packing, "max_length": training.max_length}


def fix_run_length(training: Any, rows: int) -> None:
    """Turn `num_train_epochs` into `max_steps`, which wins if both are given; a run is counted in steps."""
    if training.max_steps <= 0:
        batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        training.max_steps = max(1, -(-int(training.num_train_epochs * rows) // batch))


def run_phases(training: Any) -> Phases | None:
    """The phases of a WSA run, None for another schedule.

    Raises:
        InputError: the phases do not fit `max_steps`, or the schedule does not take its `lr_scheduler_kwargs`.
    """
    options: dict[str, Any] = dict(training.lr_scheduler_kwargs or {})
    warmup = training.get_warmup_steps(training.max_steps)
    wsa = training.lr_scheduler_type == "wsa"
    if wsa:
        known = set(inspect.signature(wsa_phases).parameters) - {"num_warmup_steps", "num_training_steps"}
        check_keys(options, known, "lr_scheduler_kwargs")
    try:
        if wsa:
            return wsa_phases(warmup, training.max_steps, **options)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # tried out: each takes its own keys
        get_scheduler(training.lr_scheduler_type, optimizer, warmup, training.max_steps, options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`lr_scheduler_kwargs` {options} do not suit {training.lr_scheduler_type.value}: {error}"
        ) from None
    return None


def make_record(
    stage: str,
    arguments: StageArguments,
    training: Any,
    facts: dict[str, Any],
    phases: Phases | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    base: str,
    base_revision: str | None = None,
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
        base_revision: its commit, if it is a repo.
        domain: for sft.
        data: what the order of the rows depends on, so that an anneal can go on in it.
    """
    parents = [f"{base}@{base_revision}" if base_revision else base] if base else []
    licences: list[str] = []
    if base:
        try:
            before = ModelRecord.load(base, base_revision)
            parents, licences = [*before.parents, *parents], before.licences
        except InputError:  # a model that is not one of ours
            licences = _licence(base, base_revision)
        licences = licences or ["that of its base model"]
    schedule: dict[str, Any] = {
        "type": str(training.lr_scheduler_type.value),
        "learning_rate": training.learning_rate,
        "max_steps": training.max_steps,
    }
    if phases is not None:
        schedule |= {"warmup_steps": phases.warmup, "stable_steps": phases.stable, "anneal_steps": phases.anneal}
        schedule |= {"anneal_shape": phases.shape, "min_lr_ratio": phases.min_lr_ratio}
        schedule |= {"half_life_steps": phases.half_life} if phases.half_life is not None else {}
    if (temperature := getattr(arguments, "domain_temperature", None)) is not None:
        schedule["domain_temperature"] = temperature if math.isfinite(temperature) else "inf"  # JSON has no infinity
    if (budget := getattr(arguments, "token_budget", None)) is not None:
        schedule["token_budget"] = budget
    replayed = [licence] if (licence := ((data or {}).get("replay") or {}).get("licence")) else []
    return ModelRecord.for_corpus(
        facts,
        counts_alike=counts_alike(tokenizer, arguments.corpus, arguments.corpus_revision),
        corpus=arguments.corpus,
        corpus_revision=arguments.corpus_revision,
        stage=stage,
        base=base,
        base_revision=base_revision,
        domain=domain,
        hardware=_hardware(training),
        schedule=schedule | ({"data": data} if data else {}),
        tokens=0,
        seed=training.seed,
        parents=parents,
        licences=[*dict.fromkeys([*licences, facts["about"]["licence"], *replayed])],
    )


def _licence(model: str, revision: str | None) -> list[str]:
    """The licence that a model's card names; none without a card that does."""
    from huggingface_hub import ModelCard

    try:
        card = ModelCard.load(local_path(model, "README.md", revision), ignore_metadata_errors=True)
    except (InputError, ValueError):
        return []
    data = card.data.to_dict()
    name = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return [name] if isinstance(name, str) else []


def _hardware(training: Any) -> str:
    """What the run computes on, as a card says it."""
    processes, device = training.world_size, training.device
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    each = "" if processes == 1 else f"{processes} processes, "
    return f"{device.type.upper()}, {each}{torch.get_num_threads()} threads"


def _output_dir(argv: Sequence[str]) -> str | None:
    """The output folder a command line names, read without judging the rest of it."""
    for flag, value in pairwise([part for word in argv for part in word.split("=", 1)]):
        if flag == "--output_dir":
            return value
    try:
        return read_yaml(find_recipe(argv[list(argv).index("--config") + 1])).get("output_dir")
    except (InputError, ValueError, IndexError):
        return None
