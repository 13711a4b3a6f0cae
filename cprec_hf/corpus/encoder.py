"""The one encoder: text to token ids for CPT, SFT and ranking alike.

Each line (a header, or a title, with its delimiter) is encoded alone and the ids are concatenated. Joint tokenisation
merges across the boundary of prompt and completion in 7 to 100 % of rows, depending on the tokenizer; encoded alone, a
title has the same ids wherever it stands. Only the last token of a line holds the delimiter, so no line's ids are the
beginning of another's: titles form a prefix-free code, and their probabilities after a history sum to at most one.
(Two titles that the tokenizer itself cannot tell apart share one code; `titles.cut_titles` counts them.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoder", "Ragged"]

_BATCH = 1 << 16  # lines handed to the Rust tokenizer at once: bounds the memory its results take
_PROBES = ["a\n", "two words\n", "2 in 1 (new)!\n"]  # what any tokenizer that keeps the delimiter gives back unchanged


class Encoder:
    """Encodes lines and documents with a private copy of a fast tokenizer, which is itself never changed.

    The copy adds no dummy prefix (SentencePiece's space before a text, ByteLevel's `add_prefix_space`), neither
    truncates nor pads, and reads a special token's text inside a title ("</s>") as ordinary characters.

    Attributes:
        start: ids that the tokenizer itself puts before a document (BOS, say), int32; empty for many tokenizers.
        description: the private copy as JSON; with equal ones, equal lines have equal ids.

    Raises:
        InputError: the tokenizer is not a fast one, or loses the delimiter.
    """

    start: np.ndarray
    description: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise InputError(
                f"tokenizer {name}: {type(tokenizer).__name__} is not a fast tokenizer (one with a tokenizer.json); "
                "convert it, or choose a model that has one"
            )
        description = backend.to_str()
        self.start = _start_ids(description)
        self.description = _without_prefix(description)
        self._backend = Tokenizer.from_str(self.description)
        self._backend.encode_special_tokens = True
        self._literal = _reachable_literals(self._backend)
        for probe in _PROBES:
            ids = self.segments([probe]).row(0)
            if self.decode(ids) != probe:
                raise InputError(
                    f"tokenizer {name}: {probe!r} becomes {self.decode(ids)!r} after encoding and decoding, so the end "
                    "of an item would be lost; choose a tokenizer that keeps line breaks"
                )

    def segments(self, lines: Sequence[str] | pa.Array) -> Ragged:
        """Encode each line alone, with nothing added before or after.

        Args:
            lines: usually ending with the delimiter; strings or an Arrow string array without nulls.

        Returns:
            One row of ids a line.
        """
        texts = lines.to_pylist() if isinstance(lines, (pa.Array, pa.ChunkedArray)) else list(lines)
        return self._encode(texts, ends=False)

    def documents(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray, *, start: bool = True) -> Ragged:
        """Encode texts of many lines: each distinct line once, then gathered.

        Equal, row by row, to `segments` of the text's lines, concatenated, with `start` before them.

        Args:
            texts: documents, prompts or completions; every line is encoded with its delimiter, and a last line
                without one as it is.
            start: put the tokenizer's own start ids before each text (documents and prompts, not completions).

        Returns:
            One row of ids a text.
        """
        column = texts if isinstance(texts, (pa.Array, pa.ChunkedArray)) else pa.array(texts, pa.large_string())
        if column.null_count:
            raise InputError(f"{column.null_count} of {len(column)} texts are null; every row needs a text")
        column = column.cast(pa.large_string())  # before the chunks become one, which 32-bit offsets hold to 2 GB
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        pieces = pc.split_pattern(column, DELIMITER)
        bounds = np.asarray(pieces.offsets, dtype=np.int64)
        distinct = pieces.flatten().dictionary_encode()
        codes = np.asarray(distinct.indices, dtype=np.int64)
        words = distinct.dictionary

        # The piece after a text's last delimiter is no line: dropped if empty, else encoded without a delimiter,
        # which makes it another line than the same words with one: code + len(words).
        tails = bounds[1:] - 1
        empty = pc.index(words, pa.scalar("", words.type)).as_py()
        keep = np.ones(len(codes), dtype=bool)
        keep[tails] = codes[tails] != empty
        codes[tails] += len(words)
        codes, bounds = codes[keep], np.concatenate([[0], np.cumsum(keep)])[bounds]

        seen = np.zeros(2 * len(words), dtype=bool)
        seen[codes] = True
        ended = pc.binary_join_element_wise(words, pa.scalar(DELIMITER, words.type), pa.scalar("", words.type))
        lines = self.segments(pa.concat_arrays([ended, words]).filter(pa.array(seen)))
        tokens = lines.take((np.cumsum(seen) - 1)[codes])
        rows = Ragged(tokens.values, tokens.offsets[bounds])
        if not start or not len(self.start):
            return rows
        n = len(rows)
        return Ragged(np.tile(self.start, n), np.arange(n + 1, dtype=np.int64) * len(self.start)).join(rows)

    def ends(self, lines: Sequence[str]) -> Ragged:
        """Where in its line each token of `segments(lines)` ends, counted in characters from the line's start."""
        return self._encode(lines, ends=True)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, special tokens included, spaces as they are."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def texts(self, rows: Ragged) -> list[str]:
        """The text of each row of ids, as `decode` gives it."""
        return self._backend.decode_batch(rows.to_arrow().to_pylist(), skip_special_tokens=False)

    def _encode(self, lines: Sequence[str], *, ends: bool) -> Ragged:
        values, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for i in range(0, len(lines), _BATCH):
            pieces, bounds = self._pieces(lines[i : i + _BATCH])
            if ends:
                encodings = self._backend.encode_batch(pieces, add_special_tokens=False)
                rows = Ragged.from_lists([end for _, end in encoding.offsets] for encoding in encodings)
                begins = offsets_of(np.fromiter(map(len, pieces), np.int64, len(pieces)))[:-1]
                begins = begins - np.repeat(begins[bounds[:-1]], np.diff(bounds))
                rows = Ragged((rows.values + np.repeat(begins, rows.lengths)).astype(np.int32), rows.offsets)
            else:
                encodings = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
                rows = Ragged.from_lists(encoding.ids for encoding in encodings)
            values.append(rows.values)
            lengths.append(np.diff(rows.offsets[bounds]))
        return Ragged(np.concatenate(values), offsets_of(np.concatenate(lengths)))

    def _pieces(self, lines: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """What is handed to the tokenizer for each line, and where each line's pieces begin, int64 [n_lines + 1].

        One piece a line, except where a title spells a token that the model would take for the token itself: there
        the line is cut after the spelling's first character.
        """
        if self._literal is None:
            return list(lines), np.arange(len(lines) + 1)
        pieces = [self._literal.split(line) for line in lines]
        return list(chain.from_iterable(pieces)), offsets_of(np.fromiter(map(len, pieces), np.int64, len(pieces)))


def _start_ids(description: str) -> np.ndarray:
    """The ids a tokenizer puts before a text: what precedes the text's own ids."""
    backend = Tokenizer.from_str(description)
    backend.no_truncation()
    backend.no_padding()
    bare, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    begin = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return np.array(whole[:begin], dtype=np.int32)


def _without_prefix(description: str) -> str:
    """A tokenizer.json without dummy prefix, truncation, padding or post-processing, for both ways."""
    parts: dict[str, Any] = json.loads(description)
    parts.update(truncation=None, padding=None, post_processor=None)
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        parts[name] = _component_without_prefix(parts[name])
    return json.dumps(parts)


def _component_without_prefix(component: dict[str, Any] | None) -> dict[str, Any] | None:
    if component is None:
        return None
    match component["type"], component.get("content"):
        case "Sequence", _:
            (name,) = component.keys() & {"normalizers", "pretokenizers", "decoders"}
            kept = [part for part in map(_component_without_prefix, component[name]) if part is not None]
            return {**component, name: kept}
        case "Metaspace", _:
            return {**component, "prepend_scheme": "never"}
        case "ByteLevel", _:
            return {**component, "add_prefix_space": False}
        case ("Prepend", _) | ("Strip", " "):  # the dummy prefix, and the decoder's removal of it
            return None
    return component


def _reachable_literals(backend: Tokenizer) -> re.Pattern[str] | None:
    """Where to cut lines that spell a special or byte token ("</s>", "<0x0A>") which the model would read as the token.

    BPE never does; Unigram does, since such tokens stand in its vocabulary like any other piece.
    """
    ids = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    ids |= {text: i for text in (f"<0x{b:02X}>" for b in range(256)) if (i := backend.token_to_id(text)) is not None}
    encodings = backend.encode_batch(list(ids), add_special_tokens=False)
    reached = [text for text, encoding in zip(ids, encodings, strict=True) if ids[text] in encoding.ids]
    cuts = [f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in reached if len(text) > 1]
    return re.compile("|".join(cuts)) if cuts else None
