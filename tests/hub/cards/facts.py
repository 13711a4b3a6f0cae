"""What the tests of the cards share: recorded facts of each kind, hostile text, and what a rendered card is made of."""

from __future__ import annotations

import html.parser
import re
from typing import Any

import yaml
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cprec_hf.hub.markdown import one_line

HOSTILE = [
    "x\n---\ny: {{ 7*7 }} {% raw %} <script>alert(1)</script> | `c` ``` [l](u) #\n- *b* \\",
    "](http://evil.org) ![i](http://evil.org/i.png) <http://evil.org> www.evil.org http://evil.org",
    "# heading\n\n## Results\n\n| a | b |\n| --- | --- |\n| c | d |",
    "```\n<!-- end of the free section -->\n```",
    "license: mit\ntags: [evil]\n---\n",
    "</code></pre><b onclick=x>&lt;i&gt;",
    "' \" !!python/object:os.system [a, b] {c: d} & * ? |",
]
hostile = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=30)
names = hostile.filter(one_line)  # a name that shows nothing is no row's name
_RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def corpus_facts(text: str = "Toys & Games") -> dict[str, Any]:
    """The keys of a `cprec-corpus.json`, with `text` wherever text of users stands."""
    counts = {"users": 1200, "items": 30, "interactions": 6000}
    return {
        "format": 1,
        "name": text,
        "template": {
            "version": "1", "max_title_tokens": 24, "history_length": 20, "window_tokens": 256,
            "candidate_list_in_prompt": False,
        },
        "tokenizer": "tokenizer",
        "about": {"name": text, "licence": "CC BY 4.0", "citation": text, "order": "time", "redistributable": True},
        "source": {
            "kind": "table", "name": text, "licence": "CC BY 4.0", "citation": text,
            "interactions": "/home/someone/secret/place.csv", "items": ["C:\\Users\\someone\\a.csv", "items.csv"],
        },
        "domains": {
            "Arts": {**counts, "slug": "arts", "role": "cpt"},
            f"{text} (unlike Arts)": {**counts, "slug": "toys-games", "role": "downstream"},
        },
        "split": {"policy": "time", "cuts": {"validation": 1_700_000_000, "test": 1_710_000_000}},
        "candidates": {"count": 20, "sha256": "ab" * 32},
        "content_sha256": "cd" * 32,
        "account": [{"name": "interactions: read", "rows_in": 10, "rows_out": 9, "refused": {text: 1}}],
        "audit": [{"check": "no leak", "passed": True, "n": 12345, "detail": text}],
        "counts": {
            "cpt": {"train": 3, "validation": 0},
            "items": {"train": 2},
            "sft-toys-games": {"train": 2, "test": 1},
        },
        "tokens": {"domain": 9876, "items": 54},
        "titles": {"cut": 3, "collisions": 2},
        "seed": 7,
        "cprec_hf": "0.1.0",
    }  # fmt: skip


def model_facts(text: str = "Toys & Games", **more: Any) -> dict[str, Any]:
    """What `render_model_card` takes; `record` changes keys of the record."""
    record = {
        "format": 1, "stage": "sft", "base": "user/base", "template_version": "1", "max_title_tokens": 24,
        "history_length": 20, "domain": text, "corpus": "user/corpus", "corpus_revision": "a" * 40,
        "corpus_hash": "cd" * 32, "schedule": {"type": "wsa", "warmup": 10}, "tokens": 123456, "seed": 0,
        "parents": ["user/base", "user/cpt"], "candidate_list_in_prompt": False, "window_tokens": 256,
    }  # fmt: skip
    return {"record": {**record, **more.pop("record", {})}, "model_name": "rec", **more}


def results_json(text: str = "CPRec", **corpus: Any) -> dict[str, Any]:
    """What stands in the `results.json` of an evaluation with a model, a baseline as reference and an oracle."""

    def estimate(mean: float) -> dict[str, dict[str, float]]:
        names = [f"{name}@{k}" for k in (1, 10) for name in ("hr", "ndcg", "mrr", "recall")]
        return {name: {"mean": mean, "low": mean - 0.05, "high": mean + 0.05} for name in names}

    def gain(difference: float) -> dict[str, dict[str, float]]:
        return {name: {"difference": difference, "p_bootstrap": 0.0001, "p_t": 0.2} for name in ("hr@1", "ndcg@10")}

    no_model = {"model": None, "revision": None, "score": "sum"}
    model = {"kind": "model", "model": "/home/someone/rec", "revision": None, "score": "pmi"}
    return {
        "format": 1,
        "corpus": {
            "location": "user/corpus", "revision": "a" * 40, "name": text, "content_sha256": "cd" * 32,
            "candidates_sha256": "ab" * 32, "split_policy": {"policy": "time", "cuts": None}, **corpus,
        },
        "domain": text, "split": "test", "users": 1158, "rows": 1160, "candidates": 20, "items": 2000, "k": [1, 10],
        "seed": 0, "bootstrap_resamples": 10000, "curves": [], "versions": {"torch": "2.13.0"},
        "reference": {"hr@1": "popularity", "ndcg@10": "popularity"},
        "methods": [
            {"name": text, **model, "metrics": estimate(0.4), "against_reference": gain(0.3)},
            {"name": "popularity", "kind": "popularity", **no_model, "metrics": estimate(0.1), "against_reference": {}},
            {"name": "latent", "kind": "latent_oracle", **no_model, "metrics": estimate(0.7),
             "against_reference": gain(0.6)},
        ],
    }  # fmt: skip


def body(card: str) -> str:
    """A card without its front matter."""
    return card.split("\n---\n", 1)[1]


def metadata(card: str) -> dict[str, Any]:
    """A card's front matter."""
    return yaml.safe_load(card.removeprefix("---\n").split("\n---\n", 1)[0])


def key_paths(value: Any, at: str = "") -> list[str]:
    """Every key of nested mappings and lists, with where it stands."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in pairs for path in (f"{at}/{key}", *key_paths(inner, f"{at}/{key}"))]


def rendered(card: str) -> str:
    """A card's body as HTML."""
    return _RENDERER.render(body(card))


def elements(card: str) -> list[tuple[str, Any]]:
    """Every tag that is opened, closed or a comment in the HTML of a card, with its attributes."""
    return _Elements(rendered(card)).found


def python_of(card: str) -> str:
    """The one block of Python in a card."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M)
    return code


class _Elements(html.parser.HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Any]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", None))

    def handle_comment(self, data: str) -> None:
        self.found.append(("!--", data))
