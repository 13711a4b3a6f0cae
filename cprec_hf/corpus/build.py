"""Raw logs to a corpus in one call: `cprec corpus build recipes/tiny/corpus.yaml`.

Behaviors -> filters -> cut titles -> pseudonyms -> splits -> pre-training documents -> fine-tuning rows with frozen
candidates -> Parquet, facts, card -> the audit of what was written. The folder appears whole and audited or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

import cprec_hf
from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.schema import Behaviors
from cprec_hf.behaviors.sources import read_source
from cprec_hf.behaviors.sources.log import counting_later
from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.catalogue import Catalogue, make_catalogue, tokenizer_texts
from cprec_hf.corpus.config import CorpusConfig, TokenizerConfig, domain_slugs
from cprec_hf.corpus.content import candidates_sha256, rows_sha256, total_sha256
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.engine import open_source
from cprec_hf.corpus.examples import CATALOGUE, ExamplePlan
from cprec_hf.corpus.few_shot import split_name
from cprec_hf.corpus.figures import user_interactions, write_figures
from cprec_hf.corpus.files import config_files, count_rows, split_files
from cprec_hf.corpus.held_out import account_negatives, count_cold
from cprec_hf.corpus.load import FACTS, FACTS_FORMAT, TOKENIZER
from cprec_hf.corpus.prepare import DomainFigures, role_facts
from cprec_hf.corpus.sequences import CATALOGUE as CPT_CATALOGUE
from cprec_hf.corpus.sequences import SequencePlan
from cprec_hf.corpus.template import TEMPLATE_VERSION, load_template
from cprec_hf.corpus.threads import short_turns
from cprec_hf.corpus.training_counts import TrainingCounts
from cprec_hf.corpus.write import write_rows
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder, refuse_existing, require_free_space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_corpus(config: CorpusConfig, *, overwrite: bool = False) -> Path:
    """Build the corpus a recipe describes and return its folder.

    Args:
        config: the recipe, read with `recipes.read_recipe(path, CorpusConfig)`.
        overwrite: whether a folder at `config.output` may be replaced (it stands until the new one is audited).

    Raises:
        InputError: anything wrong with the recipe or the source, or a failed audit; no file is left behind.
    """
    refuse_existing(config.output, overwrite=overwrite)
    with counting_later():
        behaviors = read_source(config.source, f"{config.name}: `source`")
    return build_from(behaviors, config, overwrite=overwrite)


def build_from(behaviors: Behaviors, config: CorpusConfig, *, overwrite: bool = False) -> Path:
    """`build_corpus` for `Behaviors` already read; `config.source` is only recorded."""
    refuse_existing(config.output, overwrite=overwrite)
    with tqdm(total=6, desc="corpus: reading", unit="step", disable=None) as bar, ExitStack() as stack:
        stack.enter_context(short_turns())
        folder = stack.enter_context(atomic_folder(config.output, overwrite=overwrite))
        work = folder / ".work"
        events = open_source(behaviors, config, work)
        items = events.items
        roles = _roles(items, config)
        figures = events.figures()
        if idle := [domain for domain in config.downstream if not figures[domain].users]:
            raise InputError(f"domain {idle[0]!r} of `downstream` has items and not one event; leave it out")
        require_free_space(config.output, estimate_bytes(figures, items, config))

        _next(bar, "titles")
        template = load_template(TEMPLATE_VERSION)
        tokenizer, tokenizer_name = _tokenizer(config, items, folder)
        encoder = Encoder(tokenizer)
        catalogue = make_catalogue(items, encoder, template, config.max_title_tokens)
        headers = [None, *roles]
        lengths = encoder.documents([template.header(domain) for domain in headers]).lengths
        header_tokens = dict(zip(headers, lengths.tolist(), strict=True))
        block_tokens = int(encoder.documents([template.block([])], start=False).lengths[0])
        _require_room(config, catalogue, header_tokens, block_tokens)

        _next(bar, "split")
        divided = events.divide(config, behaviors.about.order)
        counts = TrainingCounts(
            len(items), {domain: f"{config.name}/{config.seed}/{domain}" for domain in config.downstream}
        )
        users = divided.pretraining_users(config.sequences, counts, share=config.cpt_validation_share, seed=config.seed)
        if not users.events and "cpt" in (role["role"] for role in roles.values()):
            reasons = ", ".join(users.step.refused)
            raise InputError(f"no event is left for pre-training: {reasons}; move the cut or add domains")
        categories = items["category"] if "category" in config.negatives else None
        catalogue = catalogue.with_facts(counts.item_events, categories)

        _next(bar, "documents and examples")
        plan = SequencePlan(
            template.version, tuple(config.sequences), config.window_tokens, header_tokens,
            times_known=behaviors.about.order == "time",
            catalogue=catalogue.items.select(CPT_CATALOGUE.names).to_arrow().cast(CPT_CATALOGUE), seed=config.seed,
        )  # fmt: skip
        example_plans = {
            domain: ExamplePlan(
                template.version, dataset, domain, _catalogue_table(catalogue, domain),
                config.window_tokens, header_tokens[domain], block_tokens, config.history_length, config.train_targets,
                config.candidates, config.candidate_list_in_prompt, counts.line(domain), tuple(config.negatives),
                tuple(config.few_shot),
            )
            for domain, dataset in counts.datasets.items()
        }  # fmt: skip
        n_events = users.events + sum(figures[domain].interactions for domain in config.downstream)
        slugs = {domain: role["slug"] for domain, role in roles.items()}
        with tqdm(total=n_events, desc="corpus: events", unit="event", unit_scale=True, disable=None) as done:
            written = write_rows(divided, plan, example_plans, users, folder, slugs, done=done.update)
        _require_rows(folder, config, roles)
        configs = {domain: f"sft-{slugs[domain]}" for domain in config.downstream}
        negatives = account_negatives(folder, configs, config.candidate_sets)

        _next(bar, "items")
        (folder / "items").mkdir()
        table = catalogue.to_arrow()
        pq.write_table(table, folder / "items" / "train.parquet", compression="zstd")
        items_sha256 = rows_sha256([folder / "items" / "train.parquet"])
        item_tokens = int(encoder.documents(catalogue.items["text"].to_arrow()).lengths.sum())
        shutil.rmtree(work)

        _next(bar, "audit")
        sizes = dict(items.group_by("domain").len().iter_rows())
        steps = [*events.account.steps, *divided.steps, users.step, *written.steps, *negatives]
        facts = {
            "format": FACTS_FORMAT,
            "name": config.name,
            "template": {
                "version": template.version, "max_title_tokens": config.max_title_tokens,
                "history_length": config.history_length, "window_tokens": config.window_tokens,
                "candidate_list_in_prompt": config.candidate_list_in_prompt,
            },
            "tokenizer": tokenizer_name,
            "about": asdict(behaviors.about),
            "source": config.source,
            "pseudonymised": config.pseudonymise,
            "domains": {domain: role_facts(figures[domain], sizes[domain]) | roles[domain] for domain in roles},
            "split": {"policy": config.split.policy, "cuts": asdict(divided.cuts) if divided.cuts else None},
            "candidates": {
                "count": config.candidates,
                "sets": {column: policy for policy, column in config.candidate_sets.items()},
                "sha256": candidates_sha256(folder),
            },
            "few_shot": {split_name(share): share for share in sorted(config.few_shot)},
            "cold": {domain: count_cold(folder, name) for domain, name in configs.items()},
            "content_sha256": total_sha256(written.hashes | {("items", "train"): items_sha256}),
            "account": Account([step for step in steps if step.rows_in]).to_dicts(),
            "audit": [],
            "counts": _counts(folder),
            "shards": {c: {s: len(paths) for s, paths in splits.items()} for c, splits in config_files(folder).items()},
            "documents": written.documents | {"items": len(catalogue.items)},
            "tokens": written.tokens | {"items": item_tokens},
            "titles": {"cut": catalogue.cut, "collisions": catalogue.collisions},
            "seed": config.seed,
            "recipe": config.to_recipe(),
            "cprec_hf": cprec_hf.__version__,
        }  # fmt: skip
        _write_facts(folder, facts)
        audit = replace(audit_corpus(folder), folder=config.output).require()
        per_user = user_interactions({domain: figure.lengths for domain, figure in figures.items()})
        facts |= {"audit": audit.to_dicts(), "figures": audit.figures | {"user_interactions": per_user}}
        write_figures(folder, facts)
        _write_facts(folder, facts)
        _next(bar, "done")
    return Path(config.output)


def estimate_bytes(figures: Mapping[str, DomainFigures], items: pl.DataFrame, config: CorpusConfig) -> int:
    """An upper estimate of the corpus' size on disk: its texts and ids, uncompressed, before they are made."""
    line = 48 + float(items.select(pl.col("title").str.len_bytes().mean()).item() or 0)
    later = [figures[domain] for domain in config.downstream]
    n_later = sum(figure.interactions for figure in later)
    n_before = sum(figure.interactions for figure in figures.values()) - n_later
    per_example = config.history_length + (config.candidates or 0) * len(config.negatives) + 4
    lines = n_before * len(config.sequences) * 1.1 + 2 * sum(figure.users for figure in later) * per_example
    lines += n_later * (per_example if config.train_targets == "every" else 2)
    return int(lines * line + 4 * items.estimated_size()) + (1 << 20)


def _roles(items: pl.DataFrame, config: CorpusConfig) -> dict[str, dict[str, str]]:
    """Slug and role of each domain, after the checks that need no events."""
    domains = items["domain"].unique().sort().to_list()
    if unknown := [domain for domain in config.downstream if domain not in domains]:
        raise InputError(
            f"`downstream` names {unknown[0]!r}, which is no domain of this source; it has {', '.join(domains)}"
        )
    sizes = dict(items.group_by("domain").len().iter_rows())
    for domain in config.downstream:
        if sizes[domain] < (config.candidates or 2):
            raise InputError(
                f"`candidates` is {config.candidates} and domain {domain!r} has {sizes[domain]} items; "
                "ask for fewer candidates, or loosen `filters`"
            )
        named = items.filter(pl.col("domain") == domain)["category"]
        if "category" in config.negatives and not named.count():
            raise InputError(
                f"`negatives` names category, and no item of domain {domain!r} has text in a column `category`; read "
                "one from the source, or leave that policy out"
            )
    slugs = domain_slugs(domains)
    return {d: {"slug": slugs[d], "role": "downstream" if d in config.downstream else "cpt"} for d in domains}


def _tokenizer(config: CorpusConfig, items: pl.DataFrame, folder: Path) -> tuple[PreTrainedTokenizerBase, str]:
    from cprec_hf.corpus.tokenizer import load_tokenizer, train_tokenizer

    if isinstance(config.tokenizer, TokenizerConfig):
        texts = tokenizer_texts(items, load_template(TEMPLATE_VERSION))
        return train_tokenizer(texts, config.tokenizer.vocab_size, folder / TOKENIZER), TOKENIZER
    try:
        return load_tokenizer(config.tokenizer), config.tokenizer
    except InputError as error:
        raise InputError(f"`tokenizer`: {error}") from None


def _require_room(
    config: CorpusConfig, catalogue: Catalogue, header_tokens: Mapping[str | None, int], block_tokens: int
) -> None:
    """Every window must have room for its header, its candidates if shown, and two of the longest item lines."""
    widest = catalogue.widest
    block = block_tokens + (config.candidates or 0) * widest if config.candidate_list_in_prompt else 0
    before = {d: (header, block if d in config.downstream else 0) for d, header in header_tokens.items()}
    domain, (header, block) = max(before.items(), key=lambda pair: sum(pair[1]))
    need = header + block + 2 * widest
    if need > config.window_tokens:
        shown = f", {config.candidates} candidates up to {block}" if block else ""
        raise InputError(
            f"`window_tokens` is {config.window_tokens}; the header of {domain or 'all domains'} takes {header} tokens"
            f"{shown} and two titles up to {2 * widest}: raise `window_tokens` to {need} or lower `max_title_tokens`"
        )


def _require_rows(folder: Path, config: CorpusConfig, roles: Mapping[str, Mapping[str, str]]) -> None:
    """Every part that stages and evaluations read must have come to at least one row."""
    splits = ("train", "validation") if config.cpt_validation_share else ("train",)
    pretrained = any(role["role"] == "cpt" for role in roles.values())
    parts = [("cpt", split, "pre-training document") for split in splits if pretrained]
    for domain in config.downstream:
        slug = f"sft-{roles[domain]['slug']}"
        parts += [(slug, split, f"row of {domain}") for split in ("train", "validation", "test")]
    for part, split, what in parts:
        if split not in split_files(folder, part):
            raise InputError(
                f"not one {what} is left for {split}: a row needs two events of a user that fit one window; bring more "
                "events, loosen `filters`, or change `split` or `cpt_validation_share`"
            )


def _catalogue_table(catalogue: Catalogue, domain: str) -> pa.Table:
    return catalogue.of(domain).select(CATALOGUE.names).to_arrow().cast(CATALOGUE)


def _counts(folder: Path) -> dict[str, dict[str, int]]:
    return {
        config: {split: count_rows(paths) for split, paths in splits.items()}
        for config, splits in config_files(folder).items()
    }


def _write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    from cprec_hf.hub.cards import render_dataset_card

    (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_dataset_card(facts), encoding="utf-8")


def _next(bar: tqdm, step: str) -> None:
    bar.update()
    bar.set_postfix_str("")
    bar.set_description(f"corpus: {step}")
