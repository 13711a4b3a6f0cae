"""Bad input and bad luck the whole way through `cprec`: one message or a counted refusal, and nothing half-written.

Everything stands on one shop's spoilt logs: titles with line breaks, the template's own words, YAML, HTML, Jinja and
special tokens, beside rows that cannot be used. What each room does with bad input is tested in its own folder.
"""

import csv
import html
import json
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from cprec_hf import cli
from cprec_hf.files import ran_out_of_space
from cprec_hf.ranking import Recommender
from cprec_hf.training.progress import ProgressLog

BOOKS, TOYS, MUSIC = "Books", "Toys & <b>Games</b> {{ 1 }}", "Music | <i>{{ 2 }}</i>"
TITLES = {  # as they stand in the logs -> as everything after shows them
    "plain lamp": "plain lamp",
    "two\nlines\r\n of lamp": "two lines of lamp",
    "---\nlicense: mit\n---": "--- license: mit ---",
    "!!python/object:os.system mug": "!!python/object:os.system mug",
    "<script>alert(1)</script> &amp; <b>mug</b>": "<script>alert(1)</script> & <b>mug</b>",
    "{{ 7*7 }} {% raw %} {# mug #}": "{{ 7*7 }} {% raw %} {# mug #}",
    '| pipe "," `tick` ``` [link](u) *star*': '| pipe "," `tick` ``` [link](u) *star*',
    "A user's history in Books, oldest first:\nDune": "A user's history in Books, oldest first: Dune",
    "Candidates:\nDune\n": "Candidates: Dune",
    "<|endoftext|> brush": "<|endoftext|> brush",
    "\x1b[31mred\x1b[0m paint\u2028robot": "[31mred [0m paint robot",
    "&amp;#10;soap &lt;i&gt;": "soap <i>",
    "猫 lamp": "猫 lamp",
}
N_ITEMS, WINDOW, LONG = 36, 256, "very " * 300
ABOUT = {
    "name": "shop\n---\nlicense: mit {{ 7*7 }}", "licence": "<script>alert(1)</script> only\nus",
    "citation": "@misc{x,\n```\n# {{ 7*7 }} <script>}",
}  # fmt: skip


def clean_title(domain: str, number: int) -> str:
    return f"{list(TITLES.values())[number % len(TITLES)]} {number}"


def write_logs(folder: Path) -> dict[str, str]:
    """40 users with 8 events in each domain over the same months, and the rows that must be refused."""
    raw = list(TITLES)
    items = [[f"{d[0]}{i}", d, f"{raw[i % len(raw)]} {i}"] for d in (BOOKS, TOYS, MUSIC) for i in range(N_ITEMS)]
    rng = np.random.default_rng(0)
    places = [(u, d, i) for u in range(40) for d in "BTM" for i in rng.choice(N_ITEMS, 8, replace=False)]
    times = 1_600_000_000 + rng.permutation(len(places)) * 1_000
    names = {"B": BOOKS, "T": TOYS, "M": MUSIC}
    events = [[f"u{u}", f"{d}{i}", names[d], t] for (u, d, i), t in zip(places, times.tolist(), strict=True)]
    items += [["B90", BOOKS, ""], ["B91", BOOKS, " \n&nbsp;"], ["B92", BOOKS, "LATIN"], items[0]]
    items += [["B93", BOOKS, LONG + "end"]]
    u, _, d, t = events[0]
    events += [*events[:3], [u, "B90", d, t], [u, "B92", d, t], [u, "nowhere", d, t], [u, "nowhere", d, t]]
    events += [[u, "B0", d, "soon"], ["", "B0", d, t], [u, "B93", d, t]]
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["item_id", "domain", "title"], *items])
    (folder / "items.csv").write_bytes((folder / "items.csv").read_bytes().replace(b"LATIN", b"Caf\xe9"))
    with (folder / "events.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["user_id", "item_id", "domain", "timestamp"], *events])
    return {"interactions": str(folder / "events.csv"), "items": str(folder / "items.csv")}


def recipe(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class House:
    """The shop's logs, and what each verb made of them in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source: dict[str, Any] = {"kind": "table", **ABOUT, **write_logs(folder)}
        self.corpus: dict[str, Any] = {
            "name": "shop", "source": self.source, "output": str(folder / "corpus"), "downstream": [MUSIC],
            "tokenizer": {"vocab_size": 500}, "window_tokens": WINDOW, "max_title_tokens": 60, "candidates": 6,
            "split": {"validation_share": 0.2, "test_share": 0.2},
        }  # fmt: skip
        self.report: dict[str, Any] = {
            "corpus": str(folder / "corpus"), "domain": MUSIC, "output": str(folder / "report"), "k": [1, 5],
            "methods": [
                {"name": "{{ 7*7 }} <b>model</b> |", "kind": "model", "model": str(folder / "sft")},
                {"name": "popularity", "kind": "popularity"},
            ],
            "reference": ["popularity"], "curves": [str(folder / "sft")],
        }  # fmt: skip

    def stage(self, name: str, output: Path, **change: Any) -> list[str]:
        """The command line of a stage that takes four steps and saves every second one."""
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": WINDOW}
        values: dict[str, Any] = {
            "corpus": self.folder / "corpus", "output_dir": output, "save_steps": 2, "logging_steps": 1,
            "per_device_train_batch_size": 2,
        }  # fmt: skip
        own: dict[str, dict[str, Any]] = {
            "base": {**shape, "max_steps": 4},
            "cpt": {"model_name_or_path": self.folder / "base", "max_steps": 4},
            "anneal": {"init_from": self.folder / "cpt", "anneal_steps": 2},
            "sft": {"model_name_or_path": self.folder / "cpt", "max_steps": 4},
        }
        flags = [part for key, value in (values | own[name] | change).items() for part in (f"--{key}", str(value))]
        return [*(["anneal"] if name == "anneal" else ["train", name]), *flags]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Logs, corpus, base, trunk and a fine-tuned model; read only."""
    made = House(tmp_path_factory.mktemp("house"))
    assert cli.main(["corpus", "build", recipe(made.folder / "corpus.yaml", made.corpus)]) == 0
    for name in ("base", "cpt", "sft"):
        assert cli.main(made.stage(name, made.folder / name)) == 0
    return made


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(argv)`: the one message of a command that must end with status 2 and leave `tmp_path` as it was."""

    def run(argv: list[str]) -> str:
        before = tree(tmp_path)
        capsys.readouterr()
        assert cli.main(argv) == 2
        said = capsys.readouterr()
        assert said.err.startswith("cprec: ") and said.err.count("\n") == 1, said.err
        assert "steps of" not in said.out and "written" not in said.out
        assert tree(tmp_path) == before
        return said.err

    return run


# What a corpus makes of spoilt logs.


def test_rows_that_cannot_be_used_are_counted_and_the_others_are_all_there(house: House) -> None:
    facts = json.loads((house.folder / "corpus" / "cprec-corpus.json").read_text(encoding="utf-8"))
    steps = {step["name"]: step for step in facts["account"]}
    assert steps["items: read"]["refused"] == {"no title": 2, "title that is not UTF-8": 1, "same item twice": 1}
    assert steps["interactions: read"] == {
        "name": "interactions: read", "rows_in": 970, "rows_out": 961,
        "refused": {
            "item without a usable title": 2, "item not in the catalogue": 2, "duplicate event": 3,
            "unreadable timestamp": 1, "no user id": 1,
        },
    }  # fmt: skip
    card = (house.folder / "corpus" / "README.md").read_text(encoding="utf-8")
    for reason, n in steps["interactions: read"]["refused"].items():
        assert f"{reason}: {n}" in card


def test_hostile_titles_are_lines_of_prompts_and_documents(house: House) -> None:
    items = pl.read_parquet(house.folder / "corpus" / "items" / "train.parquet")
    found = {(row["domain"], row["item_id"]): row for row in items.to_dicts()}
    expected = {(d, f"{d[0]}{i}"): clean_title(d, i) for d in (BOOKS, TOYS, MUSIC) for i in range(N_ITEMS)}
    assert {key: row["title"] for key, row in found.items() if key != (BOOKS, "B93")} == expected
    long = found[BOOKS, "B93"]
    assert long["full_title"] == LONG + "end" and long["full_title"].startswith(long["title"] + " ")
    assert json.loads((house.folder / "corpus" / "cprec-corpus.json").read_text())["titles"]["cut"] == 1
    expected[BOOKS, "B93"] = long["title"]

    slug = "music-i-2-i"
    rows = [pl.read_parquet(house.folder / "corpus" / f"sft-{slug}" / f"{s}.parquet") for s in ("train", "test")]
    for row in pl.concat(rows).to_dicts():
        lines = [f"A user's history in {MUSIC}, oldest first:", *(expected[MUSIC, i] for i in row["history"]), ""]
        assert row["prompt"].split("\n") == lines
        assert row["completion"] == expected[MUSIC, row["target"]] + "\n"
    for row in pl.read_parquet(house.folder / "corpus" / "cpt" / "train.parquet").to_dicts():
        where = "across all domains" if row["domain"] is None else f"in {row['domain']}"
        keys = zip(row["item_domains"], row["item_ids"], strict=True)
        lines = [f"A user's history {where}, oldest first:", *(expected[key] for key in keys), ""]
        assert row["text"].split("\n") == lines


def live_tags(markdown: str) -> set[str]:
    """HTML elements that a page shows beyond those Markdown itself makes."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return set(re.findall(r"<([a-zA-Z]+)", body)) & {"script", "b", "i", "em"}


def shown(markdown: str) -> str:
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return html.unescape(re.sub(r"<[^>]*>", " ", body))


def test_hostile_words_stay_text_on_the_corpus_card(house: House) -> None:
    from datasets import load_dataset

    text = (house.folder / "corpus" / "README.md").read_text(encoding="utf-8")
    data, body = DatasetCard(text).data.to_dict(), text.split("\n---\n", 1)[1]
    assert data["license"] == "other" and data["pretty_name"] == "shop"
    assert live_tags(body) == set()
    assert TOYS in shown(body) and MUSIC in shown(body)
    assert "shop --- license: mit {{ 7*7 }}" in shown(body) and "49" not in re.findall(r"\b49\b", shown(body))
    for config in data["configs"]:
        assert len(load_dataset(str(house.folder / "corpus"), config["config_name"])["train"])


def test_hostile_words_stay_text_from_model_to_report(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (house.folder / "sft" / "README.md").read_text(encoding="utf-8")
    assert ModelCard(card).data.to_dict()["library_name"] == "transformers"
    assert live_tags(card.split("\n---\n", 1)[1]) == set() and f"items of {MUSIC}" in shown(card)

    history = [f"M{i}" for i in range(1, len(TITLES))]
    assert cli.main(["recommend", str(house.folder / "sft"), "--history", *history, "-k", "100"]) == 0
    said = capsys.readouterr().out.splitlines()
    names = [clean_title(MUSIC, i) for i in range(N_ITEMS)]
    assert said[1 : len(TITLES)] == [f"  {name}" for name in names[1 : len(TITLES)]]
    found = [re.fullmatch(r"  \d+\. (.*)  -\d+\.\d\d", line)[1] for line in said[len(TITLES) + 1 :]]  # type: ignore[index]
    assert sorted(found) == sorted({*names} - {*names[1 : len(TITLES)]})

    report = house.report | {"output": str(tmp_path / "report")}
    assert cli.main(["evaluate", "--config", recipe(tmp_path / "evaluate.yaml", report)]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert live_tags(text) == set() and MUSIC in shown(text) and "{{ 7*7 }} <b>model</b> |" in shown(text)


def test_a_history_longer_than_the_context_is_cut_to_its_last_items(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """60 items are given, history_length is 20, and 256 positions hold fewer: the ranking is that of the last few."""
    long = [f"M{i % N_ITEMS}" for i in range(60)]
    recommender = Recommender.from_pretrained(house.folder / "sft", device="cpu")
    everything = [[f"M{i}" for i in range(N_ITEMS)]]
    scores = recommender.rank([long], everything)
    same = [n for n in range(1, 21) if np.allclose(recommender.rank([long[-n:]], everything), scores, atol=1e-4)]
    assert 1 < same[0] < 20 and same == list(range(same[0], 21))
    assert cli.main(["recommend", str(house.folder / "sft"), "--history", *long, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"history": long, "recommendations": []}  # all known already


# Wrong recipes and wrong files: one message, before any work.


def drop(column: str) -> Callable[[str], str]:
    return lambda text: text.replace(column, "x" + column, 1)


@pytest.mark.parametrize(
    ("change", "spoil", "said"),
    [
        ({"windowtokens": 1}, None, r"corpus\.yaml: unknown key `windowtokens`; did you mean `window_tokens`\?"),
        ({"split": {"polcy": "time"}}, None, r"`split`: unknown key `polcy`; did you mean `policy`\?"),
        ({"source.itms": "x"}, None, r"corpus\.yaml: .*unknown key `itms`; did you mean `items`\?"),
        ({"source.items": "nowhere.csv"}, None, r"corpus\.yaml: .*no file nowhere\.csv"),
        ({}, drop("timestamp"), r"events\.csv has no column `timestamp`.*did you mean `xtimestamp`"),
        ({}, lambda text: re.sub(r",(16\d{8})\b", r",\g<1>000", text), r"events\.csv, row 1: timestamp is .*: ms` to"),
        (
            {},
            lambda text: text.replace("Books", "Boks"),
            r"not one item with a title in the domain 'Boks'.*`domains:`; did you mean 'Books'\?$",
        ),
        ({"downstream": ["Musik"]}, None, "'Musik', which is no domain of this source"),
        ({"candidates": 37}, None, r"`candidates` is 37 and domain 'Music .*' has 36 items"),
        (
            {"candidates": 33},
            None,
            r"'Music .*row \d+: 33 candidates need 32 items outside the user's history, and \d+ of 36",
        ),
        ({"window_tokens": 100}, None, r"`window_tokens` is 100; .*two titles up to \d+: raise `window_tokens` to"),
        ({"max_title_tokens": 2, "tokenizer": {"vocab_size": 260}}, None, "max_title_tokens is 2, .* '猫 lamp 12'"),
        ({"tokenizer": "./no/tokenizer"}, None, r"`tokenizer`: \./no/tokenizer: cannot load its tokenizer"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_a_corpus_that_cannot_be_built(
    house: House, tmp_path: Path, refused: Callable[..., str], change: dict[str, Any], spoil: Any, said: str
) -> None:
    source = dict(house.source)
    if spoil is not None:
        events = Path(source["interactions"]).read_text(encoding="utf-8")
        (tmp_path / "events.csv").write_text(spoil(events), encoding="utf-8")
        source["interactions"] = str(tmp_path / "events.csv")
    source |= {key.removeprefix("source."): value for key, value in change.items() if key.startswith("source.")}
    change = {key: value for key, value in change.items() if not key.startswith("source.")}
    values = house.corpus | {"output": str(tmp_path / "out"), "source": source} | change
    assert re.search(said, refused(["corpus", "build", recipe(tmp_path / "corpus.yaml", values)]))


@pytest.mark.parametrize("stage", ["base", "cpt", "anneal", "sft"])
def test_a_stage_that_cannot_begin(house: House, tmp_path: Path, refused: Callable[..., str], stage: str) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    typo = recipe(tmp_path / "stage.yaml", {"learning_rat": 1})
    said = refused([*house.stage(stage, out), "--config", typo])
    assert "stage.yaml: unknown key `learning_rat`; did you mean `learning_rate`?" in said
    said = refused(house.stage(stage, out, resume_from_checkpoint=empty))
    assert f"`resume_from_checkpoint`: no complete checkpoint in {empty}" in said
    assert f"{tmp_path}/gone" in refused(house.stage(stage, out, corpus=f"{tmp_path}/gone"))
    phases = {"lr_scheduler_kwargs": '{"num_anneal_steps": 3}'}
    if stage == "anneal":
        assert "give `anneal_steps`" in refused(house.stage(stage, out, **phases))
    else:
        said = refused(house.stage(stage, out, warmup_steps=2, **phases))
        assert "2 warmup + 3 anneal steps = 5 do not fit in a run of 4 steps" in said
        said = refused(house.stage(stage, out, max_length=WINDOW + 1))
        assert f"reads {WINDOW} tokens at most, and `max_length` is {WINDOW + 1}" in said


def test_an_evaluation_and_a_recommendation_that_cannot_begin(
    house: House, tmp_path: Path, refused: Callable[..., str]
) -> None:
    def evaluate(**change: Any) -> str:
        values = house.report | {"output": str(tmp_path / "out")} | change
        return refused(["evaluate", "--config", recipe(tmp_path / "evaluate.yaml", values)])

    assert "unknown key `refrence`; did you mean `reference`?" in evaluate(refrence=[])
    assert "evaluate.yaml: `k` goes to 10 and a row has 6 candidates" in evaluate(k=[10])
    assert f"{tmp_path}/gone" in evaluate(corpus=f"{tmp_path}/gone")
    assert "did you mean 'M1'" in refused(["recommend", str(house.folder / "sft"), "--history", "M1x"])


# Bad luck: no space, a failing disk, an impatient user.

VERBS = ["corpus", "base", "cpt", "anneal", "sft", "evaluate"]


@pytest.fixture
def command(house: House, tmp_path: Path) -> Callable[[str], list[str]]:
    """`command(verb)`: a command line that would write to `tmp_path / "out"`."""

    def make(verb: str) -> list[str]:
        if verb.startswith("corpus"):
            own = {"tokenizer": str(house.folder / "base")} if verb == "corpus of a given tokenizer" else {}
            values = house.corpus | {"output": str(tmp_path / "out")} | own
            return ["corpus", "build", recipe(tmp_path / "corpus.yaml", values)]
        if verb == "evaluate":
            values = house.report | {"output": str(tmp_path / "out")}
            return ["evaluate", "--config", recipe(tmp_path / "evaluate.yaml", values)]
        return house.stage(verb, tmp_path / "out")

    return make


@pytest.mark.parametrize("verb", VERBS)
def test_no_space_is_said_before_work_starts(
    command: Callable[[str], list[str]], refused: Callable[..., str], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = command(verb)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    assert re.search(r"out: about \d+ MB are needed and 0 MB are free on that disk; free some space", refused(argv))


@contextmanager
def no_file_beyond(n_bytes: int) -> Iterator[None]:
    """Every file of this process stays below `n_bytes`: the write that passes them fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("verb", "n_bytes"),
    [
        ("corpus", 6_000), ("corpus of a given tokenizer", 6_000), ("base", 60_000), ("cpt", 60_000),
        ("anneal", 60_000), ("sft", 60_000), ("evaluate", 20_000),
    ],
)  # fmt: skip
def test_a_write_that_fails_in_the_middle_leaves_nothing(
    command: Callable[[str], list[str]], tmp_path: Path, verb: str, n_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command(verb)
    before = tree(tmp_path)
    with no_file_beyond(n_bytes):
        assert cli.main(argv) == 2
    assert "cprec: no room to write: " in capsys.readouterr().err
    left = tree(tmp_path)
    assert {name: left[name] for name in before} == before
    assert left.keys() - before.keys() <= {"out/log.jsonl"}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(9_000)),
        lambda path: torch.save({"x": torch.zeros(9)}, path),
        lambda path: torch.save({"x": torch.zeros(9_000)}, path),
        lambda path: pq.write_table(pa.table({"x": np.arange(9_000)}), path),
        lambda path: save_file({"x": np.arange(9_000)}, path),
        lambda path: Tokenizer(BPE()).save(str(path)),
    ],
    ids=["python", "torch, little", "torch, much", "arrow", "safetensors", "tokenizers"],
)
def test_a_full_disk_is_known_by_each_librarys_own_error(tmp_path: Path, write: Callable[[Path], object]) -> None:
    with no_file_beyond(200), pytest.raises(Exception) as failed:
        write(tmp_path / "x")
    assert ran_out_of_space(failed.value)


def test_another_failure_is_not_taken_for_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failed:
        (tmp_path / "gone").read_text()
    assert not ran_out_of_space(failed.value)
    monkeypatch.setattr(Recommender, "from_pretrained", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        cli.main(["recommend", "x"])


def press_ctrl_c(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("verb", [*VERBS, "recommend"])
def test_ctrl_c_anywhere(
    command: Callable[[str], list[str]],
    house: House,
    tmp_path: Path,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real signal, once part of the output is written."""
    argv = ["recommend", str(house.folder / "sft"), "--history", "M1"] if verb == "recommend" else command(verb)
    where = {
        "corpus": "cprec_hf.corpus.write.examples.sft_examples",
        "evaluate": "cprec_hf.evaluation.protocol.console_table",
        "recommend": "cprec_hf.ranking.recommender.Recommender.recommend",
    }
    if verb in where:
        monkeypatch.setattr(where[verb], press_ctrl_c)
    else:
        monkeypatch.setattr(ProgressLog, "on_step_end", press_ctrl_c, raising=False)
    before = tree(tmp_path)
    try:
        status = cli.main(argv)
    except SystemExit as end:  # a stage has said itself how to go on
        status = end.code  # type: ignore[assignment]
    said = capsys.readouterr().err
    assert status == 130 and "interrupted" in said and "Traceback" not in said
    left = tree(tmp_path)
    assert {name: left[name] for name in before} == before
    assert left.keys() - before.keys() <= {"out/log.jsonl"}


# A build that would leak.


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        ("time", "pre-training ends before the validation cut"),
        ("leave_one_out", "pre-training ends before the user's validation event"),
    ],
)
def test_a_build_that_pre_trains_on_the_future_fails_its_audit(
    house: House,
    tmp_path: Path,
    refused: Callable[..., str],
    policy: str,
    check: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "cprec_hf.corpus.write.cpt_events",
        lambda events, downstream, cuts: events,
    )
    values = house.corpus | {"output": str(tmp_path / "out"), "split": {"policy": policy}}
    said = refused(["corpus", "build", recipe(tmp_path / "corpus.yaml", values)])
    assert f"corpus.yaml: the audit of {tmp_path}/out failed: {check}: " in said and "the first: file 'cpt/" in said
