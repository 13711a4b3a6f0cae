"""What a corpus recipe may say (`recipes/<model>/corpus.yaml`), checked before any work starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from cprec_hf.behaviors.filters import FilterConfig
from cprec_hf.corpus.controls import CONTROLS
from cprec_hf.corpus.pools import set_columns
from cprec_hf.errors import InputError

POLICIES = ("time", "leave_one_out")


@dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE trained on the corpus' own titles and item documents, saved in the corpus' `tokenizer/`."""

    vocab_size: int

    def __post_init__(self) -> None:
        """Raise `InputError` if the 256 bytes and the two special tokens do not fit."""
        if self.vocab_size < 260:
            raise InputError(f"`tokenizer.vocab_size` is {self.vocab_size}; give at least 260 (256 bytes and specials)")


@dataclass(frozen=True)
class SplitConfig:
    """How downstream events are divided into train, validation and test (see `corpus/splits.py`)."""

    policy: str = "time"
    """`time`: two global cuts. `leave_one_out`: each held-out user's last event tests, the one before validates."""
    validation_share: float = 0.1
    """time: share of the downstream events between the two cuts."""
    test_share: float = 0.1
    """time: share of the downstream events at or after the second cut."""

    def __post_init__(self) -> None:
        """Raise `InputError` for an unknown policy (random order by name) or shares that leave no training events."""
        if self.policy not in POLICIES:
            if "rand" in self.policy.lower():
                raise InputError(
                    f"`split.policy` is {self.policy!r}: random order is refused, for it trains on events that come "
                    "after those it tests on; choose `time` (one global cut) or `leave_one_out`"
                )
            raise InputError(f"`split.policy` is {self.policy!r}; choose one of {', '.join(POLICIES)}")
        shares = (self.validation_share, self.test_share)
        if min(shares) <= 0 or sum(shares) >= 1:
            raise InputError(
                f"`split.validation_share` is {shares[0]} and `split.test_share` is {shares[1]}; "
                "both must be above 0 and their sum below 1"
            )


@dataclass(frozen=True)
class CorpusConfig:
    """A recipe for a corpus. Every default is our choice (the paper's public text fixes none of them)."""

    source: dict[str, Any]
    """`kind: table | recbole | marketplace`, and that reader's own keys."""
    output: str
    """Folder to write; it is the Hub dataset repo too."""
    name: str
    """Name of the corpus on its card; one key of the candidate draws."""
    tokenizer: str | TokenizerConfig
    """A repo or folder with a tokenizer, or `{vocab_size: N}` to train one on this corpus."""
    downstream: list[str]
    """Domains kept out of continual pre-training, for fine-tuning and evaluation. All others are pre-trained on; where
    there are none, as in a source of one domain, the corpus has no config `cpt`."""
    sequences: list[
        Literal["domain", "all_domain", "domain_shuffled_time", "all_domain_shuffled_time", "all_domain_shuffled_users"]
    ] = field(default_factory=lambda: ["domain", "all_domain"])
    """Kinds of behaviour document for continual pre-training; `controls.py` says what the shuffled ones destroy."""
    window_tokens: int = 256
    """Most tokens a document, or a prompt with its completion, may have."""
    max_title_tokens: int = 24
    """Titles are cut once per catalogue to this many tokens, delimiter included."""
    history_length: int = 20
    """Most items of history in a fine-tuning or evaluation row."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How downstream events are held out."""
    candidates: int | None = 20
    """Size of a frozen candidate set: the target and negatives outside the user's history. None freezes none: held-out
    rows are then for ranking the whole catalogue."""
    negatives: list[Literal["uniform", "popularity", "category"]] = field(default_factory=lambda: ["uniform"])
    """A candidate set a held-out row for each policy (see `corpus/pools.py`): the first in the column `candidates`, the
    others in `candidates_popularity`, ... `category` needs items with a column `category`."""
    few_shot: list[float] = field(default_factory=lambda: [0.01, 0.1])
    """Shares of the training users whose rows stand as splits of their own beside `train` (`train_1pct`, ...), each
    within the larger ones."""
    candidate_list_in_prompt: bool = False
    """Whether fine-tuning prompts begin with the titles of their candidates."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """k-core and length filters, per domain."""
    max_test_users: int | None = None
    """Most users in each of a downstream domain's test and validation splits, drawn once; None keeps all."""
    train_targets: Literal["every", "window"] = "window"
    """`every`: a row per training event from a user's second on. `window`: rows that do not overlap, each training
    event in one of them, for a loss over all positions."""
    cpt_validation_share: float = 0.02
    """Share of the pre-training users whose documents form the `cpt` validation split."""
    pseudonymise: bool = True
    """Replace user ids by a keyed hash."""
    memory_gb: float = 2.0
    """Gigabytes (2**30 bytes) that the events worked on at once may take; a longer log takes more passes, not more
    memory. The catalogue stands beside them. The corpus does not depend on it."""
    seed: int = 0
    """Draws the candidates, the test users and the `cpt` validation users."""

    @property
    def candidate_sets(self) -> dict[str, str]:
        """The column of each frozen set of candidates, by its policy."""
        return set_columns(self.negatives) if self.candidates else {}

    def to_recipe(self) -> dict[str, Any]:
        """What the recipe says beyond the defaults, to build the corpus again; not where, nor in how much memory."""
        recipe = {}
        for f in fields(self):
            if f.name in ("output", "memory_gb"):
                continue
            value = getattr(self, f.name)
            if value != (f.default if f.default_factory is MISSING else f.default_factory()):
                nested = isinstance(value, TokenizerConfig | SplitConfig | FilterConfig)
                recipe[f.name] = asdict(value) if nested else value
        return recipe

    def __post_init__(self) -> None:
        """Raise `InputError` for values that can make no corpus."""
        least = {
            "window_tokens": 8, "max_title_tokens": 2, "history_length": 1, "candidates": 2, "max_test_users": 1,
            "seed": 0,
        }  # fmt: skip
        for key, bound in least.items():
            value = getattr(self, key)
            if value is not None and value < bound:
                raise InputError(f"`{key}` is {value}; give at least {bound}")
        if not self.memory_gb > 0:
            raise InputError(f"`memory_gb` is {self.memory_gb}; give a number of gigabytes above 0")
        if not 0 <= self.cpt_validation_share < 1:
            raise InputError(f"`cpt_validation_share` is {self.cpt_validation_share}; give 0 or more and less than 1")
        if self.candidates is None and self.candidate_list_in_prompt:
            raise InputError(
                "`candidates` is null and `candidate_list_in_prompt` is true: a whole catalogue does not fit a prompt; "
                "give a number of candidates, or leave them out of the prompts"
            )
        if self.candidate_list_in_prompt and self.negatives[:1] != ["uniform"]:
            raise InputError(
                f"`candidate_list_in_prompt` shows the first set of `negatives`, which is {self.negatives[:1]}; put "
                "uniform first, for other sets say something of the target to whoever reads them"
            )
        if wrong := [share for share in self.few_shot if not 0 < share < 1]:
            raise InputError(f"`few_shot` names {wrong[0]}; give shares of the users, above 0 and below 1")
        if len(set(self.few_shot)) != len(self.few_shot):
            raise InputError(f"`few_shot` is {self.few_shot}; name each share once")
        for key in ("downstream", "sequences", "negatives"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise InputError(f"`{key}` is {values}; name at least one, each once")
        for control in self.sequences:
            kind = CONTROLS.get(control)
            if kind is not None and kind not in self.sequences:
                raise InputError(f"`sequences` names {control}, a control of {kind}; name that kind beside it")


def domain_slugs(domains: Sequence[str]) -> dict[str, str]:
    """Names for config and folder names, [a-z0-9-]+, one per domain. Same domains, same slugs.

    Raises:
        InputError: a domain without a Latin letter or digit, or two domains with the same slug.
    """
    slugs: dict[str, str] = {}
    for domain in domains:
        slug = re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-")
        if not slug:
            raise InputError(f"domain {domain!r} has no letter a-z or digit to name its config by; rename the domain")
        if slug in slugs.values():
            other = next(name for name, taken in slugs.items() if taken == slug)
            raise InputError(f"domains {other!r} and {domain!r} would both be named {slug!r}; rename one of them")
        slugs[domain] = slug
    return slugs
