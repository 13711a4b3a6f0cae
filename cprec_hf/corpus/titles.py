"""Titles cut once per catalogue: documents, prompts, candidates and serving all use the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError


def cut_titles(titles: Sequence[str], encoder: Encoder, max_tokens: int) -> tuple[list[str], int, int]:
    """Cut titles so that each, with the delimiter, takes at most `max_tokens` tokens.

    A title keeps the words that lie within its first `max_tokens` tokens and fit; where not even the first word fits,
    that word's leading whole tokens. Where to cut is our choice; the paper does not say that it cuts.

    Args:
        titles: cleaned titles, repeats allowed.
        encoder: the encoder that will encode them.
        max_tokens: the limit for title and delimiter together.

    Returns:
        The titles in the given order; how many of them were cut; and how many distinct titles became
        indistinguishable (their tokens equal another's), which only item-level ranking can then tell apart.

    Raises:
        InputError: a title is empty, or the limit is too small for even its first character.
    """
    distinct = list(dict.fromkeys(titles))
    if "" in distinct:
        raise InputError("a title is empty; refuse items without a title before the corpus is built")
    segments = encoder.segments([title + DELIMITER for title in distinct])
    cut = dict(zip(distinct, distinct, strict=True))
    code_of = {title: segments.row(i).tobytes() for i, title in enumerate(distinct)}
    todo = [title for title, length in zip(distinct, segments.lengths, strict=True) if length > max_tokens]
    ends = encoder.ends(todo)
    ends_of = {title: ends.row(i) for i, title in enumerate(todo)}
    for n_tokens in range(max_tokens, 0, -1):  # nearly all are done in the first two rounds
        shorter = [_words_within(title, int(ends_of[title][:n_tokens][-1])) for title in todo]
        segments = encoder.segments([title + DELIMITER for title in shorter])
        fits = segments.lengths <= max_tokens
        code_of.update((short, segments.row(i).tobytes()) for i, short in enumerate(shorter))
        cut.update((title, short) for title, short, fit in zip(todo, shorter, fits, strict=True) if fit)
        todo = [title for title, fit in zip(todo, fits, strict=True) if not fit]
    if todo:
        raise InputError(f"max_title_tokens is {max_tokens}, too few for any of the title {todo[0]!r}; raise it")
    n_codes = len({code_of[title] for title in cut.values()})
    return [cut[title] for title in titles], sum(cut[title] != title for title in titles), len(distinct) - n_codes


def _words_within(title: str, end: int) -> str:
    """The words of `title` that end within its first `end` characters, or the part of its first word that does."""
    head = title[:end]
    inside_word = end < len(title) and title[end] != " "
    return head[: head.rindex(" ")] if inside_word and " " in head else head
