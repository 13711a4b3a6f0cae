"""The model as a recommender: it ranks given candidates, or recommends from everything its catalogue holds.

    recommender = Recommender.from_pretrained("user/model")
    recommender.recommend([["item-7", "item-3"]], k=5)

Items are ranked by the log-probability of their titles after the user's history, never by parsing generated text; in
the template that the model was trained with, which is read from `cprec.json` beside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import corpus_commit, counts_alike, load_facts
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.record import FILENAME, ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder, use_default_modes
from cprec_hf.hub.files import local_path
from cprec_hf.quiet import without_transformers_bars
from cprec_hf.ranking.catalogue import COLUMNS, ITEMS_FILE, Catalogue, choose_domain, domains_of, read_items
from cprec_hf.ranking.loading import load_for_ranking, locate
from cprec_hf.ranking.request import Request, read_request
from cprec_hf.ranking.scorer import Recommendation, Score, Scorer, listed
from cprec_hf.ranking.scoring import MAX_BATCH_TOKENS
from cprec_hf.ranking.trie_file import TRIE_FILE

if TYPE_CHECKING:
    from cprec_hf.ranking.explain import Explanation


class Recommender:
    """A causal language model, its tokenizer, its record and its items.

    Args:
        model: any causal language model of transformers or PEFT.
        tokenizer: its fast tokenizer.
        record: how it was trained; gives the template, the history length and the default domain.
        items: table with the columns item_id, domain, title (cleaned and cut) and full_title.
        trie_file: the catalogue's trie, saved beside the model; made anew where there is none that belongs to `items`.
        max_batch_tokens: tokens held by one forward pass, cached ones included; bounds memory.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        record: ModelRecord,
        items: pa.Table,
        *,
        trie_file: Path | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> None:
        missing = [column for column in COLUMNS if column not in items.column_names]
        if missing:
            raise InputError(f"items: no column {missing[0]!r}; a catalogue has {', '.join(COLUMNS)}")
        self.model, self.tokenizer, self.record = model, tokenizer, record
        self.items = items.select(COLUMNS)
        self._encoder = Encoder(tokenizer)
        self._template = load_template(record.template_version)
        self.max_batch_tokens = max_batch_tokens
        self._trie_file = trie_file
        self._catalogues: dict[str, Catalogue] = {}

    @classmethod
    def from_pretrained(
        cls,
        repo_or_path: str | Path,
        revision: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> Recommender:
        """Load a recommender from a local folder or the Hub; full models and LoRA adapters alike.

        Weights are read from safetensors only, and no code of the repo is run.

        Args:
            repo_or_path: a folder that a training stage wrote, or a repo id.
            revision: branch, tag or commit of the repo.
            device: "cpu", "cuda", ...; by default a GPU if there is one.
            dtype: of the weights; by default float32 on a CPU, as they were saved elsewhere.
            max_batch_tokens: tokens held by one forward pass, cached ones included; bounds memory.

        Raises:
            InputError: no such folder or repo; or it lacks the record, the items, or safetensors weights.
        """
        record = ModelRecord.load(repo_or_path, revision)
        folder = local_path(repo_or_path, FILENAME, revision).parent
        is_local = Path(repo_or_path).expanduser().is_dir()
        commit = None if is_local else folder.name  # the rest is read at the same commit
        items = read_items(local_path(repo_or_path, ITEMS_FILE, commit))
        try:
            trie_file = local_path(repo_or_path, TRIE_FILE, commit)
        except InputError:  # older releases wrote none
            trie_file = None
        model, tokenizer = load_for_ranking(folder if is_local else repo_or_path, commit, device, dtype)
        return cls(model, tokenizer, record, items, trie_file=trie_file, max_batch_tokens=max_batch_tokens)

    @classmethod
    def zero_shot(
        cls,
        repo_or_path: str | Path,
        corpus: str | Path,
        revision: str | None = None,
        corpus_revision: str | None = None,
        device: str | None = None,
    ) -> Recommender:
        """Any causal language model as a recommender, untrained: template, sizes and items are the corpus'.

        Args:
            repo_or_path: a model's folder or repo id; a record or items beside it are not read.
            corpus: a corpus' folder or repo id.
            revision: branch, tag or commit of the model's repo.
            corpus_revision: branch, tag or commit of the corpus' repo.
            device: as in `from_pretrained`.

        Raises:
            InputError: no such model or corpus, or the model cannot be loaded.
        """
        corpus_at = corpus_commit(corpus, corpus_revision)
        facts = load_facts(corpus, corpus_at)
        items = read_items(local_path(corpus, "items/train.parquet", corpus_at, "dataset"))
        _, commit = locate(repo_or_path, revision)
        model, tokenizer = load_for_ranking(repo_or_path, commit, device)
        record = ModelRecord.untrained(
            facts,
            counts_alike=counts_alike(tokenizer, corpus, corpus_at),
            corpus=str(corpus),
            corpus_revision=corpus_at,
            base=str(repo_or_path),
            base_revision=commit,
        )
        return cls(model, tokenizer, record, items)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write everything `from_pretrained` reads, whole or not at all: safetensors, tokenizer, record, items, trie.

        Raises:
            InputError: the folder exists and is not empty.
        """
        with atomic_folder(folder) as temporary, without_transformers_bars():
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            self.record.save(temporary)
            pq.write_table(self.items, temporary / ITEMS_FILE)
            if self.record.domain:
                self._catalogue(None).save_trie(temporary / TRIE_FILE)
            use_default_modes(temporary)
        return Path(folder)

    @property
    def domains(self) -> list[str]:
        """The domains whose items it knows, sorted."""
        return domains_of(self.items)

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]] | None,
        domain: str | None = None,
        score: Score = "sum",
        *,
        skip_unknown: bool = False,
    ) -> np.ndarray:
        """Score each user's candidates.

        A prompt is written as the corpus' build writes it: where `record.candidate_list_in_prompt` says so it begins
        with the candidates' titles, in the order given here.

        Args:
            histories: item ids, oldest first, a list a user; may be empty. The last `record.history_length` items
                count, fewer (whole items) where they and the longest candidate would not fit the corpus' windows
                (`record.window_tokens`) or the model.
            candidates: item ids, a list a user, all of one length; None for all the domain's, in the order of `items`.
            domain: the domain of all ids; by default the one the model was fine-tuned on.
            score: see `Score`.
            skip_unknown: leave out of histories what the catalogue does not have, instead of refusing it.

        Returns:
            float32 [users, candidates], higher is better.

        Raises:
            InputError: unknown item or domain (with the nearest, or those known), lists that do not match, or titles
                too long for the model.
        """
        if candidates is None:
            self._require_no_list()
            catalogue = self._catalogue(domain)
            past = catalogue.rows(histories, "histories", skip_unknown=skip_unknown)
            return self._scorer(catalogue).everything(past, score)
        request = self.request(histories, candidates, domain, skip_unknown=skip_unknown)
        return self._scorer(request.catalogue).candidates(request, score)

    def request(
        self,
        histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
        domain: str | None = None,
        *,
        skip_unknown: bool = False,
    ) -> Request:
        """What `rank` is asked, checked and in numbers; see there."""
        catalogue = self._catalogue(domain)
        return read_request(self.model, self.record, catalogue, histories, candidates, skip_unknown=skip_unknown)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        domain: str | None = None,
        exclude_history: bool = True,
        score: Score = "sum",
        *,
        skip_unknown: bool = False,
    ) -> list[list[Recommendation]]:
        """The `k` best items of the whole catalogue for each user, exactly.

        By `sum` they are searched for, and every item is scored only where the search cannot prove its result.

        Args:
            histories: item ids, oldest first, a list a user; see `rank`.
            k: how many items; fewer come back where the catalogue has no more.
            domain: the domain to recommend from; by default the one the model was fine-tuned on.
            exclude_history: never recommend an item of the user's history, however long ago.
            score: see `Score`.
            skip_unknown: as in `rank`.

        Returns:
            A list a user, best first; items with equal scores (a shared title) in the catalogue's order.

        Raises:
            InputError: as `rank`, or `k` below 1, or the model was trained to choose from a list in its prompt, which
                a whole catalogue does not fit.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for at least one item")
        self._require_no_list()
        catalogue = self._catalogue(domain)
        past = catalogue.rows(histories, "histories", skip_unknown=skip_unknown)
        excluded = past if exclude_history else Ragged.empty(len(past))
        items, scores = self._scorer(catalogue).best(past, k, excluded, score)
        return [listed(catalogue, *row) for row in zip(items, scores, strict=True)]

    def explain(
        self, history: Sequence[str], item: str, domain: str | None = None, score: Score = "sum"
    ) -> Explanation:
        """Why an item has its score after a history: token by token, and item by item; see `explain.explain`."""
        from cprec_hf.ranking.explain import explain

        return explain(self, history, item, domain, score)

    def titles(self, items: Sequence[str], domain: str | None = None) -> list[str]:
        """The full titles of these items, in their order. Raises `InputError` for an unknown item or domain."""
        catalogue = self._catalogue(domain)
        return catalogue.names.take(pa.array(catalogue.rows([items], "items").values)).to_pylist()

    def with_items(self, item_ids: Sequence[str], titles: Sequence[str], domain: str | None = None) -> Recommender:
        """A recommender with the same model and more items, which it never saw: they are scored from their titles.

        Titles are cleaned and cut as those of the corpus.

        Args:
            item_ids: new ids.
            titles: one each.
            domain: of all of them; by default the one the model was fine-tuned on.

        Raises:
            InputError: an id that is there already or twice, a title without text, or as many ids as titles are not.
        """
        catalogue = self._catalogue(domain)
        more = catalogue.new_items(item_ids, titles, self._encoder, self.record.max_title_tokens)
        items = pa.concat_tables([self.items, more.cast(self.items.schema)])
        return Recommender(self.model, self.tokenizer, self.record, items, max_batch_tokens=self.max_batch_tokens)

    def _require_no_list(self) -> None:
        if self.record.candidate_list_in_prompt:
            raise InputError(
                "this model needs candidates: its prompts begin with the list it chooses from "
                "(candidate_list_in_prompt), so it cannot recommend from a whole catalogue; use `rank`"
            )

    def _scorer(self, catalogue: Catalogue) -> Scorer:
        return Scorer(self.model, catalogue, self.record, self.max_batch_tokens)

    def _catalogue(self, domain: str | None) -> Catalogue:
        domain = choose_domain(domain or self.record.domain, self.domains)
        if domain not in self._catalogues:
            trie_file = self._trie_file if domain == self.record.domain else None
            self._catalogues[domain] = Catalogue(self.items, domain, self._encoder, self._template, trie_file)
        return self._catalogues[domain]
