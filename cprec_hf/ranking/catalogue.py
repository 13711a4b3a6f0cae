"""The items of one domain as a model sees them: each distinct title encoded once, each item a pointer to its title."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.corpus.template import Template
from cprec_hf.corpus.titles import cut_titles
from cprec_hf.errors import InputError
from cprec_hf.ranking.trie import Trie
from cprec_hf.ranking.trie_file import catalogue_sha256, load_trie, save_trie

ITEMS_FILE = "items.parquet"
COLUMNS = ["item_id", "domain", "title", "full_title"]

_FIRST_HEADER, _BLOCK, _HEADER, _TITLES = range(4)  # lines of prompts; titles go on from there


def read_items(path: str | Path) -> pa.Table:
    """The items of a file beside a model, or of a corpus. Raises `InputError` if it is damaged or lacks a column."""
    try:
        missing = [column for column in COLUMNS if column not in pq.read_schema(path).names]
        if not missing:
            return pq.read_table(path, columns=COLUMNS)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a whole Parquet file: {error}") from None
    raise InputError(f"{path}: no column {missing[0]!r}; a catalogue has {', '.join(COLUMNS)}")


def domains_of(items: pa.Table) -> list[str]:
    """The domains that have items, sorted."""
    return sorted(domain for domain in pc.unique(items["domain"]).to_pylist() if domain is not None)


def choose_domain(domain: str | None, known: Sequence[str]) -> str:
    """`domain`, or the only one that is known. Raises `InputError` if it is unknown, or none is given of several."""
    domain = domain or (known[0] if len(known) == 1 else None)
    if domain is None:
        raise InputError(f"which domain? the model knows {', '.join(known)}; give one as `domain`")
    if domain not in known:
        raise InputError(f"no items of domain {domain!r}; the model's catalogue has {', '.join(known)}")
    return domain


class Catalogue:
    """One domain's items.

    Items that share a title (after the cut, or as far as the tokenizer can tell) share a code, hence a score; they
    remain distinct items.

    Attributes:
        ids: item ids, string [n_items].
        names: titles to show, uncut, string [n_items].
        code_of: the row of `codes` of each item, int64 [n_items].
        codes: each distinct title's line as token ids, delimiter included.
        trie: of the codes, which none begins another.
        sha256: what codes and trie were made from (`trie_file.catalogue_sha256`).

    Args:
        items: table with the columns `COLUMNS`; other domains' items are left out.
        domain: whose items.
        encoder: the model's.
        template: the model's.
        trie_file: a file of `save_trie`; used if it belongs to these items, which saves encoding their titles.
    """

    def __init__(
        self, items: pa.Table, domain: str, encoder: Encoder, template: Template, trie_file: Path | None = None
    ) -> None:
        self.domain = domain
        mine = items.filter(pc.equal(items["domain"], domain))
        self.ids: pa.Array = mine["item_id"].cast(pa.large_string()).combine_chunks()
        self.names: pa.Array = mine["full_title"].combine_chunks()
        titles = mine["title"].cast(pa.large_string()).combine_chunks()
        self.sha256 = catalogue_sha256(domain, self.ids, titles, encoder.description, template.version)
        known = load_trie(trie_file, self.sha256) if trie_file else None
        if known is None:
            distinct = titles.dictionary_encode()
            lines = encoder.segments([template.line(title) for title in distinct.dictionary.to_pylist()])
            first, same = _distinct(lines)
            self.code_of = same[np.asarray(distinct.indices, dtype=np.int64)]
            self.codes = lines.take(first)
            self.trie = Trie.of(self.codes)
        else:
            self.trie, self.code_of = known
            self.codes = self.trie.rows()
        self._titles: pa.Array = titles.take(pa.array(np.unique(self.code_of, return_index=True)[1]))
        opening = encoder.documents([template.header(domain), template.block([])])  # with the tokenizer's start ids
        header = encoder.segments([template.header(domain)])
        self._lines = Ragged(
            np.concatenate([opening.values, header.values, self.codes.values]),
            offsets_of(np.concatenate([opening.lengths, header.lengths, self.codes.lengths])),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def save_trie(self, path: str | Path) -> None:
        """Write the trie for `trie_file`, whole or not at all."""
        save_trie(path, self.trie, self.code_of, self.sha256)

    @cached_property
    def by_code(self) -> tuple[np.ndarray, np.ndarray]:
        """Item rows by code, in the catalogue's order within each, and where each code's begin [n_codes + 1]."""
        order = np.argsort(self.code_of, kind="stable")
        return order, offsets_of(np.bincount(self.code_of, minlength=len(self.codes)))

    def rows(self, lists: Sequence[Sequence[str]], what: str, *, skip_unknown: bool = False) -> Ragged:
        """Item rows of lists of ids, a row a list.

        Args:
            lists: item ids, a list a user.
            what: what the lists are, for messages ("histories").
            skip_unknown: leave out ids that this domain does not have.

        Raises:
            InputError: not lists of lists of ids, or an id that this domain does not have (the nearest is named).
        """
        if isinstance(lists, str) or any(isinstance(row, str) for row in lists):
            raise InputError(f"{what}: expected one list of item ids a user, found a list of ids; put it in a list")
        try:
            given = pa.array(list(lists), type=pa.large_list(pa.large_string()))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{what}: expected one list of item ids (text) a user: {error}") from None
        flat = given.flatten()
        found = pc.index_in(flat, value_set=self.ids)
        if skip_unknown:
            kept = np.asarray(found.is_valid())
            return Ragged(np.asarray(found.drop_null(), dtype=np.int32), offsets_of(kept)[np.asarray(given.offsets)])
        if found.null_count:
            place = pc.index(found.is_null(), True).as_py()
            user = int(np.searchsorted(np.asarray(given.offsets), place, side="right")) - 1
            raise InputError(f"{what}[{user}]: {self._unknown(flat[place].as_py())}")
        return Ragged(np.asarray(found, dtype=np.int32), np.asarray(given.offsets, dtype=np.int64))

    def openings(self, n_users: int, shown: np.ndarray | None) -> np.ndarray:
        """The lines before each user's history: a header, after the list of candidates if prompts show one.

        Args:
            n_users: how many.
            shown: the candidates listed, rows of `codes` [n_users, candidates]; None for no list.

        Returns:
            Numbers of lines, as `prompts` takes them, int64 [n_users, lines].
        """
        if shown is None:
            return np.full((n_users, 1), _FIRST_HEADER)
        return np.column_stack([np.full(n_users, _BLOCK), shown + _TITLES, np.full(n_users, _HEADER)])

    def opening_tokens(self, openings: np.ndarray) -> np.ndarray:
        """The tokens of those lines, start ids included, int64 [n_users]: prompts without any history."""
        return self._lines.lengths[openings].sum(axis=1)

    def prompts(self, openings: np.ndarray, histories: Ragged, history_length: int, room: np.ndarray) -> Ragged:
        """Prompts of histories, each trimmed from the left, whole items at a time.

        Equal to the encoder's ids of `Template.prompt(domain, titles of the kept items, titles of the candidates)`.

        Args:
            openings: what stands before each history, from `openings`.
            histories: item rows, oldest first, a row a user.
            history_length: most items kept.
            room: most tokens each user's prompt may take, int64 [n_users].

        Returns:
            One row of token ids a user.
        """
        trimmed = self.trimmed(openings, histories, history_length, room)
        first = Ragged(openings.ravel().astype(np.int32), np.arange(len(openings) + 1) * openings.shape[1])
        numbers = first.join(Ragged(trimmed.values + np.int32(_TITLES), trimmed.offsets))
        lines = self._lines.take(numbers.values)
        return Ragged(lines.values, lines.offsets[numbers.offsets])

    def trimmed(self, openings: np.ndarray, histories: Ragged, history_length: int, room: np.ndarray) -> Ragged:
        """The codes of what `prompts` keeps of histories, a row a user; arguments as there."""
        codes, offsets = self.code_of[histories.values], histories.offsets
        user = np.repeat(np.arange(len(room)), histories.lengths)
        before = offsets_of(self.codes.lengths[codes])
        tokens_from_here = before[offsets[1:]][user] - before[:-1]
        items_from_here = offsets[1:][user] - np.arange(len(codes))
        fits = tokens_from_here <= (room - self.opening_tokens(openings))[user]
        kept = fits & (items_from_here <= history_length)
        return Ragged(codes[kept].astype(np.int32), offsets_of(np.bincount(user[kept], minlength=len(room))))

    def check_fits(self, openings: np.ndarray, codes: np.ndarray, limit: int) -> None:
        """Check that prompts have room for their candidates, if not for any history.

        Args:
            openings: what stands before each history, from `openings`.
            codes: the candidates of each user, [n_users, n].
            limit: most tokens of a prompt with one candidate.

        Raises:
            InputError: one does not fit.
        """
        before, after = self.opening_tokens(openings), self.codes.lengths[codes].max(axis=1)
        worst = int((before + after).argmax())
        if before[worst] + after[worst] <= limit:
            return
        title = self._titles[int(codes[worst][self.codes.lengths[codes[worst]].argmax()])].as_py()
        shown = openings.shape[1] - 2
        what = f"the list of {shown} candidates with the header" if shown > 0 else "the prompt's header"
        remedy = "give fewer candidates or " if shown > 0 else ""
        raise InputError(
            f"the title {title!r} takes {after[worst]} tokens and {what} {before[worst]}, more than the {limit} that "
            f"fit the model and its corpus' windows; {remedy}cut titles shorter (max_title_tokens) in the corpus"
        )

    def new_items(
        self, item_ids: Sequence[str], titles: Sequence[str], encoder: Encoder, max_title_tokens: int
    ) -> pa.Table:
        """Items that this domain does not have yet, as a table of `COLUMNS`, their titles cleaned and cut.

        Raises:
            InputError: an id that is there already or twice, a title without text, or not as many ids as titles.
        """
        from cprec_hf.behaviors.titles import clean_titles  # needs Polars, which the rest of ranking does not

        cleaned = clean_titles(list(titles))
        if len(item_ids) != len(cleaned):
            raise InputError(f"{len(item_ids)} item ids but {len(cleaned)} titles; give one each")
        known = set(self.ids.to_pylist())
        for item, title in zip(item_ids, cleaned, strict=True):
            if item in known:
                raise InputError(f"item {item!r} is in domain {self.domain!r} already; give new items new ids")
            if not title:
                raise InputError(f"item {item!r} has no title; what it is can only be read from that")
            known.add(item)
        cut, _, _ = cut_titles(cleaned, encoder, max_title_tokens)
        columns = list(item_ids), [self.domain] * len(cut), cut, cleaned
        return pa.table({name: pa.array(v, pa.string()) for name, v in zip(COLUMNS, columns, strict=True)})

    def _unknown(self, item: Any) -> str:
        near = difflib.get_close_matches(str(item), self.ids.to_pylist(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"its ids look like {self.ids[0].as_py()!r}"
        return f"no item {item!r} among the {len(self.ids)} items of domain {self.domain!r}; {hint}"


def _distinct(rows: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct row first stands, and which distinct row each row is."""
    values = np.ascontiguousarray(rows.values, dtype=np.int32)
    buffers = [None, pa.py_buffer(rows.offsets * values.itemsize), pa.py_buffer(values)]
    encoded = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows), buffers).dictionary_encode()
    same = np.asarray(encoded.indices, dtype=np.int64)
    return np.unique(same, return_index=True)[1], same
