"""Cut titles: they fit to the token, end at a word where they can, and what the cut cost is counted."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.titles import cut_titles
from cprec_hf.errors import InputError

characters = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"), exclude_characters="▁")
words = st.one_of(st.text(characters, min_size=1, max_size=12), st.sampled_from(["red", "lamp", "!", "12", "</s>"]))
titles = st.lists(words, min_size=1, max_size=12).map(" ".join)


def size(encoder: Encoder, title: str) -> int:
    return len(encoder.segments([title + "\n"]).row(0))


@given(names=st.lists(titles, max_size=4), limit=st.integers(6, 20))
def test_the_longest_words_that_fit_are_kept(any_tokenizer: Any, names: list[str], limit: int) -> None:
    encoder = Encoder(any_tokenizer)
    cut, n_cut, n_collisions = cut_titles(names, encoder, limit)
    for full, short in zip(names, cut, strict=True):
        assert size(encoder, short) <= limit
        assert short and full.startswith(short) and short == short.strip()
        parts = full.split(" ")
        fitting = [head for n in range(1, len(parts) + 1) if size(encoder, head := " ".join(parts[:n])) <= limit]
        if fitting:
            assert short == fitting[-1]
        else:  # inside the first word: nothing longer than a character's tokens was left unused
            assert parts[0].startswith(short)
            assert size(encoder, short) > limit - 5 or size(encoder, full[: len(short) + 1]) > limit
    assert n_cut == sum(full != short for full, short in zip(names, cut, strict=True))
    assert n_collisions == len(set(names)) - len({tuple(encoder.segments([s + "\n"]).row(0)) for s in cut})


def test_counts_and_order(byte_level_tokenizer: Any) -> None:
    encoder = Encoder(byte_level_tokenizer)
    limit = size(encoder, "red lamp for")
    names = ["red lamp for garden", "lamp", "red lamp for kitchen", "red lamp for garden", "red lamp for"]
    cut, n_cut, n_collisions = cut_titles(names, encoder, limit)
    assert cut == ["red lamp for", "lamp", "red lamp for", "red lamp for", "red lamp for"]
    assert (n_cut, n_collisions) == (3, 2)
    assert cut_titles(names, encoder, 100) == (names, 0, 0)
    assert cut_titles([], encoder, 100) == ([], 0, 0)


def test_a_single_long_word_is_cut_at_a_token(any_tokenizer: Any) -> None:
    encoder = Encoder(any_tokenizer)
    word = "microscopebeakerfiltertubing" * 5
    (short,), n_cut, _ = cut_titles([word], encoder, 8)
    assert n_cut == 1 and size(encoder, short) == 8
    ids = encoder.segments([short]).row(0)
    assert ids.tolist() == encoder.segments([word]).row(0)[: len(ids)].tolist()


def test_characters_of_many_tokens_stay_whole(any_tokenizer: Any) -> None:
    encoder = Encoder(any_tokenizer)
    cut, _, _ = cut_titles(["𝔘𝔫𝔦𝔠𝔬𝔡𝔢" * 3], encoder, 11)
    assert "𝔘𝔫𝔦𝔠𝔬𝔡𝔢𝔘𝔫𝔦𝔠𝔬𝔡𝔢".startswith(cut[0]) and 5 < size(encoder, cut[0]) <= 11


def test_what_cannot_be_cut_is_refused(byte_level_tokenizer: Any) -> None:
    encoder = Encoder(byte_level_tokenizer)
    with pytest.raises(InputError, match=r"max_title_tokens is 2.*'𝔘'"):
        cut_titles(["red", "𝔘"], encoder, 2)
    with pytest.raises(InputError, match="empty"):
        cut_titles(["red", ""], encoder, 9)


def test_real_titles(shared: Path) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    items = pq.read_table(shared / "data" / "amazon" / "items.parquet", filters=[("domain", "==", "Scientific")])
    names = [" ".join(title.split()) for title in items["title"].to_pylist()[:500]]
    encoder = Encoder(AutoTokenizer.from_pretrained(shared / "weights" / "tinystories-neo-3m"))
    cut, n_cut, n_collisions = cut_titles(names, encoder, 24)
    assert encoder.segments([f"{title}\n" for title in cut]).lengths.max() <= 24
    assert n_cut > 250 and n_collisions == len(set(names)) - len(set(cut))
    assert cut_titles(cut, encoder, 24) == (cut, 0, 0)
