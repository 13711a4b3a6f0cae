"""How well a model ranks while it trains: hr@1 and ndcg@10 over the frozen candidates of some validation rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k
from cprec_hf.ranking.scoring import score_candidates
from cprec_hf.ranking.trie import Trie
from cprec_hf.training.data import corpus_table


class RankingProbe:
    """Scores candidates by summed log-probability; reads and encodes its rows once.

    Args:
        corpus: folder or Hub repo.
        revision: of the repo.
        domain: whose items and rows.
        config: that domain's, `sft-<slug>`.
        encoder: the model's.
        users: rows to rank, the first of the validation split.

    Raises:
        InputError: no validation rows, none with candidates, or `users` below 1.
    """

    def __init__(
        self, corpus: str, revision: str | None, domain: str, config: str, encoder: Encoder, users: int
    ) -> None:
        rows = corpus_table(corpus, revision, config, "validation", ["prompt", "target", "candidates"]).slice(0, users)
        if users < 1 or not rows.num_rows:
            raise InputError(f"{corpus}: `probe_users` {users} leaves no validation row of {config} to rank")
        items = corpus_table(corpus, revision, "items", "train", ["item_id", "domain", "title"])
        items = items.filter(pc.equal(items["domain"], domain)).combine_chunks()
        flat = rows["candidates"].combine_chunks().flatten()
        if not len(flat):
            raise InputError(
                f"{corpus}: its validation rows have no frozen candidates to rank between steps; give `eval_strategy: "
                "no`, or build the corpus with a number of `candidates`"
            )
        self.width = len(flat) // rows.num_rows
        self.prefixes: Ragged = encoder.documents(rows["prompt"])
        lines = pc.binary_join_element_wise(items["title"].combine_chunks(), "", DELIMITER)
        self.catalogue = Trie.of(encoder.segments(lines))
        self.which = np.asarray(pc.index_in(flat, items["item_id"].combine_chunks()), dtype=np.int64)
        self.owners = np.repeat(np.arange(rows.num_rows), self.width)
        targets = rows["target"].combine_chunks().take(pa.array(self.owners))
        self.relevance = np.asarray(pc.equal(flat, targets)).reshape(-1, self.width)

    def __call__(self, model: Any) -> dict[str, float]:
        """hr@1 and ndcg@10 (of fewer candidates, ndcg over all of them), means over the rows."""
        scores = score_candidates(model, self.prefixes, self.catalogue, self.owners, which=self.which)
        return ranking_metrics(scores.reshape(-1, self.width), self.relevance)


def ranking_metrics(scores: np.ndarray, relevance: np.ndarray) -> dict[str, float]:
    """Means over the rows of scores and relevance [n_rows, candidates]; of fewer than 10, ndcg over all of them."""
    k = min(10, scores.shape[1])
    metrics = ranking_at_k(scores, relevance, [1, k])
    return {"hr@1": float(metrics["hr@1"].mean()), "ndcg@10": float(metrics[f"ndcg@{k}"].mean())}
