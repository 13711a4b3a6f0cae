"""What the audit counts beside its checks, against plain sets and loops; sharded corpora give what whole ones give."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus import audit_batches
from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.audit_batches import Index, hashes_of
from cprec_hf.corpus.audit_figures import Figures, histogram, repeated_titles, shared_values
from cprec_hf.corpus.load import load_facts

names = st.lists(st.text(max_size=3), max_size=12)


@given(names, names)
def test_names_are_found_where_they_stand(known: list[str], asked: list[str]) -> None:
    known = list(dict.fromkeys(known))
    found = Index(pa.array(known, pa.string())).find(pa.array(asked, pa.string()))
    assert found.tolist() == [known.index(name) if name in known else -1 for name in asked]


@given(st.lists(st.text("ab", max_size=4), unique=True, max_size=20), st.lists(st.text("ab", max_size=4), max_size=20))
def test_names_with_one_hash_are_not_taken_for_one_another(known: list[str], asked: list[str]) -> None:
    def few(column: pa.Array, seed: int = 0) -> np.ndarray:
        """A hash by which every name asked about that is not known is taken for one that may be."""
        texts = column.to_pylist()
        return np.array([known.index(t) if t in known else len(t) % 3 for t in texts], dtype=np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_batches, "hashes_of", few)
        found = Index(pa.array(known, pa.string())).find(pa.array(asked, pa.string()))
    assert found.tolist() == [known.index(name) if name in known else -1 for name in asked]


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.integers(0, 69)), max_size=8), max_size=5),
    st.sampled_from([3, 70]),
)
def test_shared_users_are_those_of_plain_sets(pieces: list[list[tuple[str, int]]], n_domains: int) -> None:
    """Over any number of pieces, and more domains than a word has bits."""
    domains, total = [f"d{n}" for n in range(n_domains)], Figures([f"d{n}" for n in range(n_domains)])
    seen: dict[int, set[str]] = {n: set() for n in range(n_domains)}
    for piece in pieces:
        figures, users = Figures(domains), sorted({user for user, _ in piece})
        at = np.array([users.index(user) for user, _ in piece], dtype=np.int64)
        of = np.array([domain % n_domains for _, domain in piece], dtype=np.int64)
        figures.add_users(hashes_of(pa.array(users, pa.string())), at, of)
        total.join(figures)
        for user, domain in piece:
            seen[domain % n_domains].add(user)
    assert total.shared_users().tolist() == [[len(seen[a] & seen[b]) for b in seen] for a in seen]


@given(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.sampled_from("123"), st.sampled_from("xyz")), unique_by=lambda i: i[:2]
    )
)
def test_titles_and_ids_are_counted_as_in_a_loop(rows: list[tuple[str, str, str]]) -> None:
    items = pl.DataFrame(rows, schema={"domain": pl.String, "item_id": pl.String, "title": pl.String}, orient="row")
    titles = {d: [title for domain, _, title in rows if domain == d] for d in "AB"}
    counted = repeated_titles(items, ["A", "B"])
    for domain, other in ("AB", "BA"):
        assert counted[domain] == {
            "items": len(titles[domain]),
            "repeated": sum(titles[domain].count(title) > 1 for title in titles[domain]),
            "shared": sum(title in titles[other] for title in titles[domain]),
        }
    for column, at in (("item_id", 1), ("title", 2)):
        of = {d: {row[at] for row in rows if row[0] == d} for d in "AB"}
        assert shared_values(items, column, ["A", "B"]).tolist() == [[len(of[a] & of[b]) for b in "AB"] for a in "AB"]


@given(st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 300), min_size=1, max_size=30), min_size=1))
def test_a_histogram_holds_every_value_once(values: dict[str, list[int]]) -> None:
    found = histogram({kind: np.bincount(lengths) for kind, lengths in values.items()})
    assert len(found["edges"]) <= 33 and len(set(np.diff(found["edges"]))) <= 1
    for kind, lengths in values.items():
        assert found["documents"][kind] == np.histogram(lengths, [*found["edges"][:-1], 10**6])[0].tolist()


def test_figures_of_a_corpus_are_those_of_its_rows(corpus: Path) -> None:
    found = audit_corpus(corpus).figures
    documents = pl.concat([pl.read_parquet(path) for path in sorted((corpus / "cpt").glob("*.parquet"))])
    events = documents.select("user_id", domain="item_domains").explode("domain").unique()
    music = pl.concat([pl.read_parquet(path, columns=["user_id"]) for path in (corpus / "sft-music").glob("*.parquet")])
    users = {domain: {*events.filter(domain=domain)["user_id"]} for domain in ("Books", "Games")}
    users["Music"] = {*music["user_id"]}
    assert found["overlap"]["domains"] == [*users]
    assert found["overlap"]["users"] == [[len(users[a] & users[b]) for b in users] for a in users]
    assert len(users["Books"] & users["Games"]) > 40
    for kind, counts in found["document_tokens"]["documents"].items():
        tokens = documents.filter(kind=kind)["n_tokens"].to_numpy()
        assert counts == np.histogram(tokens, found["document_tokens"]["edges"])[0].tolist()
    recorded = load_facts(corpus)["figures"]
    assert {key: recorded[key] for key in found} == found


def test_shards_and_row_groups_of_any_size_are_audited_alike(corpus: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(corpus, tmp_path / "copy")
    for path in sorted(folder.glob("*/*.parquet")):
        rows = pq.read_table(path)
        path.unlink()
        for n in range(3):
            part = rows.slice(n * len(rows) // 3, (n + 1) * len(rows) // 3 - n * len(rows) // 3)
            pq.write_table(part, path.with_name(f"{path.stem}-{n:05d}-of-00003.parquet"), row_group_size=17)
    whole, parts = audit_corpus(corpus), audit_corpus(folder)
    assert parts.passed and parts.figures == whole.figures
    sampled = "encoded whole"  # all rows of small batches, some of larger ones
    assert [row for row in parts.rows if sampled not in row.check] == [r for r in whole.rows if sampled not in r.check]
    last = folder / "cpt" / "train-00002-of-00003.parquet"
    rows = pl.read_parquet(last)
    rows.with_columns(n_tokens=pl.when(pl.int_range(pl.len()) == 20).then(1).otherwise("n_tokens")).write_parquet(last)
    (broken,) = [row for row in audit_corpus(folder).rows if row.check == "token counts"]
    assert broken.detail.startswith("1 rows, the first: file 'cpt/train-00002-of-00003', row 20, ")
