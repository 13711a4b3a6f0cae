"""`cprec.json`, beside every model: what made it, and what whoever loads it must do alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file
from cprec_hf.hub.files import local_path
from cprec_hf.recipes import from_mapping

FILENAME = "cprec.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelRecord:
    """How a model came to be. Ranking reads the template, the cut and the history length back from here."""

    stage: str
    """The stage that wrote the model: base, cpt, anneal, sft; none for a plain language model that is ranked with."""
    base: str
    """The model that the stage began from: a folder, or a repo id."""
    template_version: str
    """Version of the template, for `load_template`."""
    max_title_tokens: int
    """Titles were cut to this many tokens, delimiter included."""
    history_length: int
    """Most items of history in a row of the corpus."""
    domain: str | None
    """The domain it was fine-tuned on; null for a model of all domains."""
    corpus: str
    """Folder or repo of the corpus."""
    corpus_revision: str | None
    """The corpus' commit; null for a local folder."""
    corpus_hash: str
    """The corpus' `content_sha256`."""
    schedule: dict[str, Any]
    """The learning-rate schedule and its phases in steps."""
    tokens: int
    """Tokens trained on in this stage."""
    seed: int
    """Seed of the run."""
    parents: list[str]
    """The models before it, the base first; a repo with its commit, as `me/model@commit`."""
    base_revision: str | None = None
    """The commit of the base's repo; null for a local folder, or where an older release did not say."""
    candidate_list_in_prompt: bool = False
    """Whether the corpus' prompts begin with the titles of their candidates."""
    window_tokens: int | None = None
    """Most tokens of a prompt with its completion in the corpus; null where the model's tokenizer counts otherwise than
    the corpus' own, or an older release did not say."""
    corpus_redistributable: bool = False
    """Whether the corpus' source may be published again, its items' titles with it."""
    hardware: str | None = None
    """What the stage ran on; null where an older release did not say."""
    licences: list[str] = field(default_factory=list)
    """Of the base model and of the corpus' source, in words or as identifiers; empty where an older release did not
    say."""
    format: int = FORMAT
    """Version of this file's keys."""

    @classmethod
    def for_corpus(
        cls, facts: Mapping[str, Any], *, counts_alike: bool, corpus: str, corpus_revision: str | None, **others: Any
    ) -> ModelRecord:
        """A record that takes the corpus' sizes and hashes from its facts.

        Args:
            facts: of `load_facts`.
            counts_alike: whether the corpus' sizes in tokens hold for the model's tokenizer.
            corpus: folder or repo.
            corpus_revision: commit of the repo.
            others: the remaining fields.
        """
        sizes = facts["template"]
        return cls(
            template_version=sizes["version"],
            max_title_tokens=sizes["max_title_tokens"],
            history_length=sizes["history_length"],
            window_tokens=sizes["window_tokens"] if counts_alike else None,
            candidate_list_in_prompt=sizes["candidate_list_in_prompt"],
            corpus=corpus,
            corpus_revision=corpus_revision,
            corpus_hash=facts["content_sha256"],
            corpus_redistributable=facts["about"]["redistributable"],
            **others,
        )

    @classmethod
    def untrained(cls, facts: Mapping[str, Any], **others: Any) -> ModelRecord:
        """The record of any language model that is to rank a corpus as it is: arguments as `for_corpus` takes them."""
        return cls.for_corpus(facts, stage="none", domain=None, schedule={}, tokens=0, seed=0, parents=[], **others)

    def save(self, folder: str | Path) -> Path:
        """Write `cprec.json` into the folder; returns its path."""
        path = Path(folder) / FILENAME
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder_or_repo: str | Path, revision: str | None = None) -> ModelRecord:
        """Read `cprec.json` from a local folder or a Hub repo.

        Raises:
            InputError: the file is missing or broken, or was written by another release's format.
        """
        path = local_path(folder_or_repo, FILENAME, revision)
        values = read_json(path, FORMAT)
        return from_mapping(values, cls, str(path))


def read_json(path: Path, known_format: int) -> dict[str, Any]:
    """A JSON file of ours, whose `format` must be the known one.

    Raises:
        InputError: not a JSON object, or of another format.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != known_format:
        raise InputError(
            f"{path}: format {found!r}, but this release of cprec_hf reads format {known_format}; install the release "
            "that wrote it, or write it again"
        )
    return values
