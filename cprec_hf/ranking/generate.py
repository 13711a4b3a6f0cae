"""Generate and match, for comparison with earlier work only: the model writes an answer, which is looked up by text.

    answers = generate_and_match(recommender, histories, candidates)
    answers.chosen  # the candidate each answer names, -1 where it names none

So LLaRA, S-DPO and others measure language models, and lose whatever is not written out to the letter; `Recommender`
ranks by likelihood instead, where no answer is invalid. Answers are greedy: `model.generate` with one beam and without
sampling, whatever the `generation_config` beside the model says. (No beams: what they find would depend on the length
at which a batch is cut, hence on who else is in it; the likeliest candidate is what `Recommender.rank` gives exactly.)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm
from transformers import GenerationConfig

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError
from cprec_hf.ranking.reader import Reader, choose_method
from cprec_hf.ranking.recommender import Recommender

_LOGITS = 1 << 28  # logits held at once by models that compute every position's: 1 GB in float32


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model wrote for each user, and what that names."""

    texts: list[str]
    """The answers, up to the first delimiter [users]."""
    titles: np.ndarray
    """The candidates' titles as they were matched, str [users, candidates]."""
    named: np.ndarray
    """Whether an answer names a candidate, bool [users, candidates]; several where candidates share a title."""

    @property
    def chosen(self) -> np.ndarray:
        """The place of the candidate that each answer names, int64 [users]; -1 if none.

        Of candidates that share the title it is the first: an answer does not say which it means, so metrics should
        take the mean over them (`named`), as `metrics/candidate_match` does.
        """
        none = self.named.shape[1]
        first = np.where(self.named, np.arange(none), none).min(axis=1, initial=none)
        return np.where(first < none, first, -1)


def generate_and_match(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]],
    domain: str | None = None,
    max_batch_tokens: int = 16384,
) -> Answers:
    """Let the model write the next line after each prompt, and look it up among the user's candidates.

    The prompt is that of `Recommender.rank`. An answer ends at the template's delimiter or the tokenizer's end of
    text, or when it has as many tokens as the longest of the user's candidates; cut so, it is compared as it stands.
    Answers and titles match if they are equal after Unicode NFKC, lower case, and white space collapsed and stripped
    (`metrics/candidate_match`); a title is what the tokenizer gives back of it, which no answer can differ from.

    The model is in evaluation mode meanwhile, and left as it was, its `generation_config` included.

    Args:
        recommender: the model, its template and its items.
        histories: item ids, oldest first, a list a user; see `Recommender.rank`.
        candidates: item ids, a list a user, all of one length.
        domain: the domain of all ids; by default the one the model was fine-tuned on.
        max_batch_tokens: tokens of prompts and answers held by one batch, padding included.

    Raises:
        InputError: as `Recommender.rank`, or the lists of candidates are empty.
    """
    request = recommender.request(histories, candidates, domain)
    if len(request.codes) and not request.codes.size:
        raise InputError("the lists of candidates are empty; give at least one each")
    encoder, lines = recommender._encoder, request.catalogue.codes
    texts: list[str] = []
    if len(request.codes):
        limits = lines.lengths[request.codes].max(axis=1)
        written = _write(recommender, request.prompts, limits, max_batch_tokens)
        texts = [text.split(DELIMITER)[0] for text in encoder.texts(written)]
    used, place = np.unique(request.codes, return_inverse=True)
    titles = [title.removesuffix(DELIMITER) for title in encoder.texts(lines.take(used))]
    place = place.reshape(request.codes.shape)
    return Answers(texts, np.array(titles, dtype=object)[place], _same(texts, titles, place))


def _same(texts: list[str], titles: list[str], place: np.ndarray) -> np.ndarray:
    """Whether text `u` matches title `place[u, i]`, bool [users, candidates]."""
    from cprec_hf.metrics.candidate_match.candidate_match import normalised  # which imports evaluate: seconds

    keys = normalised(pa.array(texts + titles, pa.string())).dictionary_encode().indices.to_numpy()
    return keys[: len(texts), None] == keys[len(texts) :][place]


def _write(recommender: Recommender, prompts: Ragged, limits: np.ndarray, max_batch_tokens: int) -> Ragged:
    """The greedy continuation of each prompt, at most `limits` tokens [users]: up to the first that ends it."""
    reader = Reader(recommender.model)
    delimits, ends = _endings(recommender, reader.config.vocab_size)
    stops = delimits | ends
    padding = int(np.argmin(stops))  # no ending: transformers takes a prompt that ends in padding for a mistake
    answers = np.full((len(limits), int(limits.max())), padding, dtype=np.int64)
    with reader.reading(prompts.row(0)), _plain_generation(reader.model):
        bar = tqdm(desc="generating", total=len(limits), unit="user", delay=2, disable=None, leave=False)
        for users in _batches(reader, prompts, limits, max_batch_tokens):
            batch, steps = prompts.take(users), int(limits[users].max())
            width = int(batch.lengths.max())
            seen = np.arange(width) >= width - batch.lengths[:, None]  # left-padded: answers follow at once
            ids = np.full(seen.shape, padding, dtype=np.int64)
            ids[seen] = batch.values
            greedy = GenerationConfig(
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=steps,
                eos_token_id=np.flatnonzero(stops).tolist(),
                pad_token_id=padding,
            )
            whole = reader.model.generate(
                input_ids=reader.tensor(ids), attention_mask=reader.tensor(seen).long(), generation_config=greedy
            )
            new = whole[:, width:].cpu().numpy()
            answers[users, : new.shape[1]] = new
            bar.update(len(users))
        bar.close()
    step = np.arange(answers.shape[1])
    ended = stops[answers] & (step < limits[:, None])
    first = np.where(ended.any(axis=1), ended.argmax(axis=1), limits)
    at_end = answers[np.arange(len(answers)), np.minimum(first, limits - 1)]
    lengths = first + (ended.any(axis=1) & delimits[at_end])  # a delimiter may end a token that holds more
    return Ragged(answers[step < lengths[:, None]].astype(np.int32), offsets_of(lengths))


def _endings(recommender: Recommender, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens hold the delimiter, and which is the tokenizer's end of text; both bool [vocab_size]."""
    encoder: Encoder = recommender._encoder
    one_by_one = Ragged(np.arange(vocab_size, dtype=np.int32), np.arange(vocab_size + 1))
    delimits = np.array([DELIMITER in text for text in encoder.texts(one_by_one)])
    ends = np.zeros(vocab_size, dtype=bool)
    if recommender.tokenizer.eos_token_id is not None:
        ends[recommender.tokenizer.eos_token_id] = True
    return delimits, ends


def _batches(reader: Reader, prompts: Ragged, limits: np.ndarray, max_batch_tokens: int) -> Iterator[np.ndarray]:
    """Users to answer together, longest prompts first, padding and answers counted in `max_batch_tokens`."""
    if "logits_to_keep" not in inspect.signature(reader.model.forward).parameters:
        max_batch_tokens = min(max_batch_tokens, _LOGITS // reader.config.vocab_size)
    lengths = prompts.lengths
    context = np.iinfo(np.int64).max if reader.context is None else reader.context
    recurrent = choose_method(reader.model, int((lengths + limits).max())) == "rows"  # it may read the padding
    order = np.lexsort((-limits, -lengths))
    begin = 0
    while begin < len(order):
        width = int(lengths[order[begin]])
        users = order[begin : begin + max(1, max_batch_tokens // width)]
        columns = width + np.maximum.accumulate(limits[users]) - 1  # the last token is not read
        fits = (columns <= context) & (columns * (np.arange(len(users)) + 1) <= max_batch_tokens)
        if recurrent:
            fits &= lengths[users] == width
        users = users[: max(1, int(fits.sum()))]
        yield users
        begin += len(users)


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """The model without its own `generation_config`: what a call leaves open, transformers would take from it."""
    inherited = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = inherited
