"""Read a corpus back, from its folder or from the Hub: `load_corpus("user/corpus", "cpt", revision="v1")`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprec_hf.corpus.files import split_files
from cprec_hf.corpus.record import read_json
from cprec_hf.corpus.tokenizer import load_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.hub.files import local_path, snapshot

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

FACTS = "cprec-corpus.json"
FACTS_FORMAT = 1
TOKENIZER = "tokenizer"  # folder of a tokenizer that was trained with the corpus


def load_facts(repo_or_folder: str | Path, revision: str | None = None) -> dict[str, Any]:
    """What `cprec-corpus.json` says of a corpus: template, tokenizer, domains, split, candidates, counts, hashes.

    Raises:
        InputError: this is no corpus, or one of another release's format.
    """
    return read_json(local_path(repo_or_folder, FACTS, revision, "dataset"), FACTS_FORMAT)


def corpus_commit(repo_or_folder: str | Path, revision: str | None = None) -> str | None:
    """The commit that `revision` of a corpus' repo stands for; None for a folder.

    Raises:
        InputError: this is no corpus.
    """
    path = local_path(repo_or_folder, FACTS, revision, "dataset")
    return None if Path(repo_or_folder).expanduser().is_dir() else path.parent.name


def load_corpus(repo_or_folder: str | Path, config: str, revision: str | None = None) -> DatasetDict:
    """One config of a corpus (`cpt`, `items`, `sft-<slug>`), a split per file.

    Raises:
        InputError: no such corpus, or no such config in it (the message lists those there are).
    """
    from datasets import DatasetDict, load_dataset

    configs = load_facts(repo_or_folder, revision)["counts"]
    if config not in configs:
        raise InputError(f"{repo_or_folder}: no config {config!r}; it has {', '.join(sorted(configs))}")
    folder = snapshot(repo_or_folder, revision, "dataset", [f"{config}/*.parquet"]) / config
    files = {split: [str(path) for path in paths] for split, paths in split_files(folder.parent, config).items()}
    dataset = load_dataset("parquet", data_files=files)
    assert isinstance(dataset, DatasetDict)
    return dataset


def corpus_tokenizer(repo_or_folder: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer a corpus was counted and cut with: trained with it, or the one its facts name.

    Raises:
        InputError: the tokenizer that the facts name cannot be loaded.
    """
    name = load_facts(repo_or_folder, revision).get("tokenizer")
    if not name:
        raise InputError(f"{repo_or_folder}: its {FACTS} names no tokenizer; build it again")
    if name == TOKENIZER:
        return load_tokenizer(snapshot(repo_or_folder, revision, "dataset", [f"{TOKENIZER}/*"]) / TOKENIZER)
    try:
        return load_tokenizer(name)
    except InputError as error:
        raise InputError(f"{repo_or_folder}: its tokenizer {error}") from None


def counts_alike(tokenizer: PreTrainedTokenizerBase, repo_or_folder: str | Path, revision: str | None = None) -> bool:
    """Whether a corpus' sizes in tokens hold for a model's tokenizer, as far as the corpus' own can be had here."""
    try:
        return tokenizer.get_vocab() == corpus_tokenizer(repo_or_folder, revision).get_vocab()
    except InputError:
        return False
