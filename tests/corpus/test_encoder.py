"""The one encoder: lossless lines, prefix-free titles, documents equal to their lines, the tokenizer left alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError

SPECIAL = ["</s>", "<s>", "<unk>", "<|endoftext|>", "<|begin_of_text|>", "<0x0A>", "<0x41>"]
# Whatever a cleaned title may hold: no control, format, separator or surrogate characters, single inner spaces. "▁" is
# SentencePiece's own sign for a space, so a tokenizer of that kind cannot tell the two apart.
characters = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"), exclude_characters="▁")
words = st.one_of(st.text(characters, min_size=1, max_size=8), st.sampled_from(["red", "lamp", "!", "12", *SPECIAL]))
titles = st.lists(words, min_size=1, max_size=6).map(" ".join)
any_case = settings(max_examples=60)


@pytest.fixture(scope="module")
def encoder(any_tokenizer: Any) -> Encoder:
    return Encoder(any_tokenizer)


@pytest.fixture(scope="module")
def unigram_tokenizer() -> Any:
    """SentencePiece Unigram: its special and byte tokens stand in the vocabulary like any other piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["▁", *map(chr, range(33, 127))]
    vocabulary = [(piece, 0.0) for piece in pieces] + [(letter, -5.0) for letter in letters] + [("▁lamp", -4.0)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.add_special_tokens(pieces[:3])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def assert_prefix_free(encoder: Encoder, names: list[str]) -> None:
    codes = [tuple(encoder.segments([name + "\n"]).row(0)) for name in names]
    for i, code in enumerate(codes):
        assert encoder.decode(code) == names[i] + "\n"
        for j, other in enumerate(codes):
            assert i == j or other[: len(code)] != code, f"{names[i]!r} begins {names[j]!r}"


@any_case
@given(names=st.lists(titles, min_size=2, max_size=6, unique=True))
def test_titles_form_a_lossless_prefix_free_code(encoder: Encoder, names: list[str]) -> None:
    assert_prefix_free(encoder, names)


@any_case
@given(title=titles, cut=st.integers(1, 40), ending=st.sampled_from(["", "!", " !", "...", "s", " s", "0", "\u0301"]))
def test_a_title_never_begins_its_own_extension(encoder: Encoder, title: str, cut: int, ending: str) -> None:
    shorter = title[:cut].strip()
    assert_prefix_free(encoder, list(dict.fromkeys([title, shorter, title + ending, shorter + ending])))


@any_case
@given(name=titles)
def test_ends_point_at_the_characters_behind_each_token(encoder: Encoder, name: str) -> None:
    ends, ids = encoder.ends([name]).row(0), encoder.segments([name]).row(0)
    assert len(ends) == len(ids) and ends[-1] == len(name) and (np.diff(ends) >= 0).all()
    for i, end in enumerate(ends[:-1]):  # a token may end inside a character: only whole ones can be compared
        text = encoder.decode(ids[: i + 1])
        if "\ufffd" not in text:
            assert text == name[:end]


@any_case
@given(names=st.lists(titles, min_size=1, max_size=3))
def test_unigram_reads_special_and_byte_spellings_as_characters(unigram_tokenizer: Any, names: list[str]) -> None:
    encoder = Encoder(unigram_tokenizer)
    names = list(dict.fromkeys([*names, "a</s>b", "<0x0A>", "<0x41>", "A", "<<s><unk>"]))
    assert_prefix_free(encoder, names)
    ids = encoder.segments([f"{name}\n" for name in names])
    assert not np.isin(ids.values, [0, 1, 2]).any()
    for name in names:
        ends = encoder.ends([name]).row(0)
        assert (
            ends[-1] == len(name) and len(ends) == len(encoder.segments([name]).row(0)) and (np.diff(ends) >= 0).all()
        )


def test_no_dummy_prefix_and_start_ids(
    byte_level_tokenizer: Any, llama3_style_tokenizer: Any, sentencepiece_style_tokenizer: Any
) -> None:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    for tokenizer, start in [
        (byte_level_tokenizer, []),
        (llama3_style_tokenizer, [llama3_style_tokenizer.bos_token_id]),
        (sentencepiece_style_tokenizer, [1]),
    ]:
        encoder = Encoder(tokenizer)
        assert encoder.start.tolist() == start and encoder.start.dtype == np.int32
        assert encoder.decode(encoder.segments(["red lamp\n"]).row(0)) == "red lamp\n"

    spaced = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer.backend_tokenizer)
    spaced.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    assert spaced("red")["input_ids"] != byte_level_tokenizer("red")["input_ids"]
    assert Encoder(spaced).segments(["red"]).row(0).tolist() == byte_level_tokenizer("red")["input_ids"]
    first = sentencepiece_style_tokenizer("red lamp")["input_ids"]
    assert first[1] != Encoder(sentencepiece_style_tokenizer).segments(["red lamp"]).row(0)[0]  # "▁red" and "red"


def test_metaspace_prefix_is_removed_both_ways(unigram_tokenizer: Any) -> None:
    encoder = Encoder(unigram_tokenizer)
    lamp = unigram_tokenizer.convert_tokens_to_ids("▁lamp")
    assert unigram_tokenizer("lamp")["input_ids"] == [lamp]
    assert encoder.segments(["lamp", "a lamp"]).row(0).tolist() == unigram_tokenizer.convert_tokens_to_ids([*"lamp"])
    assert encoder.segments(["a lamp"]).row(0)[-1] == lamp
    assert encoder.decode(encoder.segments([" lamp"]).row(0)) == " lamp"


def test_special_text_is_ordinary_text(any_tokenizer: Any, encoder: Encoder) -> None:
    line = any_tokenizer.eos_token + " lamp\n"
    ids = encoder.segments([line]).row(0)
    assert not set(ids.tolist()) & set(any_tokenizer.all_special_ids)
    assert encoder.decode(ids) == line
    assert any_tokenizer.eos_token_id in any_tokenizer(line)["input_ids"]  # which is what it would otherwise become


def test_special_text_merges_as_any_other_text() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["lamp <| lamp <|", "lamp |> lamp |>"], trainer)
    line = "lamp <|end|> lamp\n"
    as_text = backend.encode(line).ids
    assert "Ġ<|" in backend.encode(line).tokens
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    assert tokenizer(line)["input_ids"] != as_text
    assert Encoder(tokenizer).segments([line]).values.tolist() == as_text


@any_case
@given(
    texts=st.lists(
        st.tuples(st.lists(st.one_of(st.just(""), titles), max_size=4), st.sampled_from(["", "red"])).map(
            lambda parts: "".join(f"{line}\n" for line in parts[0]) + parts[1]
        ),
        max_size=6,
    ),
    start=st.booleans(),
)
def test_documents_equal_their_lines_one_by_one(encoder: Encoder, texts: list[str], start: bool) -> None:
    expected = [
        [*(encoder.start if start else []), *(i for line in _lines(text) for i in encoder.segments([line]).row(0))]
        for text in texts
    ]
    for given_as in (texts, pa.array(texts, pa.string()), pa.chunked_array([texts[:2], texts[2:]], pa.string())):
        rows = encoder.documents(given_as, start=start)
        assert [rows.row(i).tolist() for i in range(len(rows))] == expected
        assert rows.values.dtype == np.int32 and rows.offsets.dtype == np.int64


def _lines(text: str) -> list[str]:
    *whole, last = text.split("\n")
    return [line + "\n" for line in whole] + [last] * bool(last)


def test_prompt_and_completion_are_the_document(encoder: Encoder) -> None:
    prompt, completion = "A user's history in Lamps, oldest first:\nred lamp\n", "blue chair!\n"
    joined = encoder.documents([prompt]).join(encoder.documents([completion], start=False))
    assert joined.row(0).tolist() == encoder.documents([prompt + completion]).row(0).tolist()


def test_many_lines_cross_the_batches(byte_level_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(byte_level_tokenizer)
    lines = [f"lamp {i}\n" for i in range(23)]
    whole, ends = encoder.segments(lines), encoder.ends(lines)
    monkeypatch.setattr("cprec_hf.corpus.encoder._BATCH", 5)
    assert encoder.segments(pa.array(lines)).values.tolist() == whole.values.tolist()
    assert encoder.segments(lines).offsets.tolist() == whole.offsets.tolist()
    assert encoder.ends(lines).values.tolist() == ends.values.tolist()
    assert len(encoder.segments([])) == 0 and len(encoder.documents([])) == 0


def test_the_given_tokenizer_is_not_changed(any_tokenizer: Any) -> None:
    before, ids = any_tokenizer.backend_tokenizer.to_str(), any_tokenizer("</s> red lamp\n")["input_ids"]
    encoder = Encoder(any_tokenizer)
    encoder.documents(["red lamp\n"])
    assert any_tokenizer.backend_tokenizer.to_str() == before
    assert any_tokenizer("</s> red lamp\n")["input_ids"] == ids


def test_truncation_and_padding_do_not_reach_the_encoder(byte_level_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer.backend_tokenizer, pad_token="!")
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    encoder = Encoder(tokenizer)
    long = "red lamp for the kitchen table\n"
    assert encoder.segments([long]).values.tolist() == Encoder(byte_level_tokenizer).segments([long]).values.tolist()
    assert len(encoder.start) == 0


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    class Slow:
        name_or_path = "my/slow"

    with pytest.raises(InputError, match=r"my/slow.*not a fast tokenizer"):
        Encoder(Slow())  # type: ignore[arg-type]
    whitespace = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    whitespace.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="line breaks"):
        Encoder(PreTrainedTokenizerFast(tokenizer_object=whitespace, unk_token="<unk>"))


def test_null_texts_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="1 of 2 texts are null"):
        encoder.documents(pa.array(["a\n", None]))


@pytest.mark.parametrize("name", ["stories-260k", "tinystories-neo-3m"])
def test_real_tokenizers(shared: Path, name: str) -> None:
    from transformers import AutoTokenizer

    encoder = Encoder(AutoTokenizer.from_pretrained(shared / "weights" / name))
    names = ["Lamp", "Lamp!", "Lamp!!", "Lamp 2", "Lamp 2 pack", "lamp", "Große Lampe", "大きいランプ", *SPECIAL]
    assert_prefix_free(encoder, names)
    document = "".join(f"{name}\n" for name in names)
    assert encoder.decode(encoder.documents([document], start=False).row(0)) == document


def test_a_column_of_chunks_and_of_any_string_type_is_one(
    byte_level_tokenizer: Any, tokenizer_texts: list[str]
) -> None:
    encoder = Encoder(byte_level_tokenizer)
    whole = encoder.documents(tokenizer_texts)
    for kind in (pa.string(), pa.large_string()):
        chunks = pa.chunked_array([tokenizer_texts[:7], [], tokenizer_texts[7:]], kind)
        got = encoder.documents(chunks)
        assert got.values.tolist() == whole.values.tolist() and got.offsets.tolist() == whole.offsets.tolist()
    with pytest.raises(InputError, match="1 of 2 texts are null"):
        encoder.documents(pa.chunked_array([["a"], [None]], pa.string()))
