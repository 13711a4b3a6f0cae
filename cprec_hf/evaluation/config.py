"""What an evaluation recipe may say (`recipes/<model>/evaluate.yaml`), checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cprec_hf.errors import InputError

Kind = Literal[
    "model",
    "generate",
    "pointwise",
    "item_knn",
    "title_overlap",
    "bm25",
    "popularity",
    "repeat",
    "embedding",
    "gru4rec",
    "sasrec",
    "bert4rec",
    "sasrec_llm",
    "hybrid",
    "best_of",
    "random",
    "candidate_memoriser",
    "latent_oracle",
    "bayes_oracle",
]
MODELS = ("model", "generate", "pointwise")
EMBEDDED = ("embedding", "sasrec_llm")
"""Kinds that take a language model's embeddings of the titles; any `model` will do, encoders too."""
NEED_A_SET = ("generate", "pointwise", "candidate_memoriser")
"""Kinds that mean something only for a frozen set: answers are looked up in it, asked about, or it is looked up."""
ORACLES = ("latent_oracle", "bayes_oracle")
TRAINED = ("gru4rec", "sasrec", "bert4rec", "sasrec_llm")
"""Kinds that are trained when their turn comes, which takes longer than to count."""
COMBINED = ("hybrid", "best_of")
"""Kinds that are made of other methods."""
CALIBRATED = ("model", "hybrid", *TRAINED, *ORACLES)
"""Kinds whose scores are log-probabilities, up to a constant a row, if the method is right."""
NO_PARTS = ("generate", "candidate_memoriser", *ORACLES)
"""Kinds that are no parts of others: answers are no scores, the others know what no recommender may."""


@dataclass(frozen=True)
class MethodConfig:
    """One row of the table."""

    name: str
    """What the row is called."""
    kind: Kind
    """`model`, `generate` (a model whose written answers are looked up), `pointwise` (a model that is asked about each
    candidate, yes against no), a baseline, or a ceiling of a marketplace."""
    model: str | None = None
    """kinds model, generate and pointwise: repo or folder of a model of ours, or a plain language model, zero-shot;
    kinds embedding and sasrec_llm: of any language model or encoder, which reads the titles."""
    revision: str | None = None
    """kinds that take a model: branch, tag or commit of the repo."""
    score: Literal["sum", "mean", "pmi", "validation"] = "sum"
    """kind model: how token log-probabilities make a title's score; see `Recommender.rank`. `validation`: the one of
    the three with the best ndcg at the last cut-off on the validation rows, chosen before the test rows are scored."""
    parts: list[str] = field(default_factory=list)
    """kind hybrid: names of the methods whose scores it adds up, weighted by what fits the validation rows best; kind
    best_of: of those of which it is the one with the best ndcg at the last cut-off on the validation rows."""

    def __post_init__(self) -> None:
        """Raise `InputError` if `model` or `parts` is missing, or given where it means nothing."""
        combined = self.kind in COMBINED
        if combined != bool(self.parts) or len(self.parts) == 1:
            wanted = "give `parts`, the names of two methods or more" if combined else "takes no `parts`"
            raise InputError(f"method {self.name!r} is of kind {self.kind}: {wanted}")
        if self.kind in (*MODELS, *EMBEDDED) and not self.model:
            raise InputError(f"method {self.name!r} is of kind {self.kind}; give `model`, a folder or repo id")
        if self.kind not in (*MODELS, *EMBEDDED) and (self.model or self.revision or self.score != "sum"):
            raise InputError(
                f"method {self.name!r} is of kind {self.kind}, which takes no `model`, `revision` or `score`"
            )
        if self.kind in EMBEDDED and self.score != "sum":
            raise InputError(f"method {self.name!r} is of kind {self.kind}, which takes no `score`: it has its own")
        if self.kind in ("generate", "pointwise") and self.score != "sum":
            raise InputError(f"method {self.name!r} is of kind {self.kind}, which takes no `score`: answers have none")


@dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation: one split of one downstream domain, scored by each method on the same candidates."""

    corpus: str
    """Corpus repo or folder."""
    domain: str
    """Downstream domain of the corpus."""
    output: str
    """Folder to write: results.json, per_user.parquet, report.md and the plots."""
    methods: list[MethodConfig]
    """Rows of the table, in order."""
    corpus_revision: str | None = None
    """Branch, tag or commit of the corpus repo."""
    split: Literal["test", "validation"] = "test"
    """Rows to score. Baselines choose their settings on `validation` whatever stands here."""
    candidates: Literal["uniform", "popularity", "category", "all"] | None = None
    """What each row ranks: the corpus' frozen set of this policy, or `all` items of the domain but those of the row's
    history. By default the corpus' first set, or `all` where it froze none."""
    reference: list[str] = field(default_factory=list)
    """Names of methods: p-values are against the best of these, chosen anew for each metric. Empty: no p-values."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10])
    """Cut-offs of the metrics."""
    seed: int = 0
    """Draws the bootstrap resamples and the random method's scores."""
    train_share: float | None = None
    """Share of the training users that baselines are fitted on, the same nested subsets as the stages' `train_share`.
    Models are not trained here: give those that were fine-tuned on as few. Settings are chosen on all validation rows,
    as a stage's early stopping does."""
    subset_seed: int | None = None
    """Draws other users for `train_share` than the corpus froze, as the stages' `subset_seed` does."""
    curves: list[str] = field(default_factory=list)
    """Output folders of training stages whose learning rate and losses are plotted, in order."""

    def __post_init__(self) -> None:
        """Raise `InputError` for values that make no evaluation."""
        names = [method.name for method in self.methods]
        if not names:
            raise InputError("`methods` is empty; name at least one")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"`methods` has {repeated[0]!r} more than once; give each its own name")
        if unknown := [name for name in self.reference if name not in names]:
            raise InputError(f"`reference` names {unknown[0]!r}, which is not among the methods: {', '.join(names)}")
        needs = [method.name for method in self.methods if method.kind in NEED_A_SET]
        if self.candidates == "all" and needs:
            raise InputError(f"`candidates` is all, and method {needs[0]!r} is of a kind that needs a frozen set")
        _check_parts(self.methods)
        if self.train_share is not None and not 0 < self.train_share <= 1:
            raise InputError(f"`train_share` is {self.train_share}; give a share of the users, above 0 and at most 1")
        if self.subset_seed is not None and self.train_share is None:
            raise InputError("`subset_seed` draws the users of a `train_share`; give that too")
        if not self.k or min(self.k) < 1 or sorted(set(self.k)) != self.k:
            raise InputError(f"`k` is {self.k}; give whole numbers from 1 up, rising")
        if self.seed < 0:
            raise InputError(f"`seed` is {self.seed}; give 0 or more")

    @property
    def parts(self) -> set[str]:
        """The names of all methods that are part of another."""
        return {part for method in self.methods for part in method.parts}


def _check_parts(methods: list[MethodConfig]) -> None:
    """Raise `InputError` for parts that are not there, twice there, can be none, or made of the whole itself."""
    by_name = {method.name: method for method in methods}
    for method in methods:
        where = f"method {method.name!r}: `parts`"
        for part in method.parts:
            if part not in by_name:
                raise InputError(f"{where} has {part!r}, which is not among the methods: {', '.join(by_name)}")
            if method.parts.count(part) > 1:
                raise InputError(f"{where} has {part!r} more than once")
            if by_name[part].kind in NO_PARTS:
                raise InputError(f"{where} has {part!r}, and a method of kind {by_name[part].kind} can be no part")
        reached, ahead = set(), list(method.parts)
        while ahead:
            name = ahead.pop()
            if name == method.name:
                raise InputError(f"{where} lead back to itself; no method can be made of itself")
            if name in by_name and name not in reached:
                reached.add(name)
                ahead += by_name[name].parts
