"""How likely is each candidate after a history: exact log-probabilities, no token read twice that could be shared.

Every candidate of a user follows the same prefix, and many begin alike. So the prefixes of a batch of users are read
once, into cached keys and values, and on top of them each user's tree of candidates (`forest`), in which what several
candidates begin with stands once. Three methods give the same numbers:

    mask    the tree side by side in one row, branches kept apart by a block mask. The fastest; right only where every
            token may see its whole past and positions are rotary (`reader.choose_method`).
    cache   one branch a row, each row with its copy of the keys and values so far. Right for sliding windows, position
            tables and the bias buffers of older models.
    rows    one candidate a row after its whole prefix, nothing shared. Right for any causal model, recurrent ones
            included; the other two are measured against it in `benchmarks/rank_candidates.py`.

A candidate's last token is predicted but never read, and the vocabulary head runs only on positions that predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.branches import Scored, read_forest
from cprec_hf.ranking.forest import Forest
from cprec_hf.ranking.reader import Method, Reader, choose_method
from cprec_hf.ranking.trie import Trie

MAX_BATCH_TOKENS = 16384
"""Tokens held by one forward pass unless said otherwise, cached ones included. Our choice."""
_NODES = 1 << 23  # values of nodes held at once, which bounds the memory of scoring large catalogues


def score_candidates(
    model: Any,
    prefixes: Ragged,
    candidates: Ragged | Trie,
    owners: np.ndarray,
    *,
    which: np.ndarray | None = None,
    method: Method = "auto",
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> np.ndarray:
    """The log-probability of each candidate's tokens, summed, given its prefix.

    The model is put in evaluation mode meanwhile and left as it was. On a terminal, a progress bar shows after 2 s.

    Args:
        model: any causal language model of transformers, LoRA adapters included, on any device.
        prefixes: one row of token ids a user, at least one token each.
        candidates: one row of token ids a candidate, at least one token each; a trie of them saves making it.
        owners: the row of `prefixes` that each pair's candidate follows, int64 [n_pairs].
        which: the row of `candidates` that each pair scores, int64 [n_pairs]; by default pair `i` scores row `i`. So a
            catalogue is encoded once, however many users are scored against it.
        method: see above; "auto" takes the fastest that is right for the model.
        max_batch_tokens: tokens held by one forward pass, cached ones included; longer work takes more passes.

    Returns:
        float32 [n_pairs], in nats. Softmax in float32 and sums in float64, whatever the model's dtype.

    Raises:
        InputError: an empty prefix or candidate, or a pair longer than the model's positions.
        ValueError: the numbers of owners and candidates differ.
    """
    owners = np.asarray(owners, dtype=np.int64)
    n_rows = len(candidates.ends) if isinstance(candidates, Trie) else len(candidates)
    which = np.arange(n_rows, dtype=np.int64) if which is None else np.asarray(which, dtype=np.int64)
    if owners.shape != which.shape:
        raise ValueError(f"{len(owners)} owners for {len(which)} candidates; give each candidate one owner")
    if not len(owners):
        return np.zeros(0, dtype=np.float32)
    lengths = candidates.depth[candidates.ends] if isinstance(candidates, Trie) else candidates.lengths
    reader = Reader(model)
    longest = _check_fits(prefixes.lengths[owners], lengths[which], reader.context, owners, which)
    method = choose_method(model, longest) if method == "auto" else method
    with reader.reading(prefixes.row(int(owners[0]))):
        tokens = reader.batch_tokens(max_batch_tokens)
        if method == "rows":
            rows = candidates.rows() if isinstance(candidates, Trie) else candidates
            scored = _whole_rows(reader, prefixes, rows, owners, which, tokens)
            return _collected(scored, len(owners), int(lengths[which].sum())).astype(np.float32)
        if isinstance(candidates, Ragged):  # a tree of those that are asked for
            used, which = np.unique(which, return_inverse=True)
            candidates = Trie.of(candidates.take(used))
        users, place = _longest_first(prefixes, owners)
        forest, paths = Forest.of(candidates, len(users), place[owners], candidates.ends[which])
        found = _collected(read_forest(reader, prefixes.take(users), forest, method, tokens), len(forest.wanted))
    return np.add.reduceat(found[paths.values], paths.offsets[:-1]).astype(np.float32)


def score_catalogue(
    model: Any, prefixes: Ragged, trie: Trie, *, method: Method = "auto", max_batch_tokens: int = MAX_BATCH_TOKENS
) -> np.ndarray:
    """The log-probability of every row of a trie after every prefix, each node read at most once a prefix.

    Args:
        model: as in `score_candidates`.
        prefixes: one row of token ids a user, at least one token each.
        trie: of the rows, none of which is empty.
        method: as in `score_candidates`.
        max_batch_tokens: as in `score_candidates`.

    Returns:
        float32 [users, rows], in nats.

    Raises:
        InputError: an empty prefix, or one too long for the model with the longest row.
    """
    scores = np.zeros((len(prefixes), len(trie.ends)), dtype=np.float32)
    if not scores.size:
        return scores
    fastest = method_for(model, prefixes, trie)  # which also says what does not fit
    method = fastest if method == "auto" else method
    if method == "rows":
        owners, which = (index.ravel() for index in np.indices(scores.shape))
        found = score_candidates(
            model, prefixes, trie, owners, which=which, method=method, max_batch_tokens=max_batch_tokens
        )
        return found.reshape(scores.shape)
    for users, totals in _whole_tries(model, prefixes, trie, method, max_batch_tokens):
        scores[users] = totals[:, trie.ends]
    return scores


def invalid_mass(model: Any, prefixes: Ragged, trie: Trie, *, max_batch_tokens: int = MAX_BATCH_TOKENS) -> np.ndarray:
    """How likely a model is to write something that begins no row of a trie and is none, or goes on after one's end.

    It is a sum over the tokens that lead nowhere. Where no row begins another (titles that end with their delimiter),
    this and the probabilities of the rows sum to one.

    Args:
        model: one that `score_candidates` reads by "mask" or "cache".
        prefixes: one row of token ids a user, at least one token each.
        trie: of the rows, none of which is empty.
        max_batch_tokens: as in `score_candidates`.

    Returns:
        Log-probability, float64 [users], in nats.

    Raises:
        InputError: as `score_catalogue`, or the model's state cannot be cached by token.
    """
    mass = np.zeros(len(prefixes), dtype=np.float64)
    method = method_for(model, prefixes, trie)
    if method == "rows":
        raise InputError(f"{type(model).__name__} keeps no keys and values, so its whole tree cannot be read at once")
    inner = trie.order[trie.n_children[trie.order] > 0]  # the root, then the nodes that a forest reads
    reading = _whole_tries(model, prefixes, trie, method, max_batch_tokens)
    leaving = _whole_tries(model, prefixes, trie, method, max_batch_tokens, rest=True)
    for (users, totals), (_, left) in zip(reading, leaving, strict=True):
        mass[users] = np.logaddexp.reduce(totals[:, inner] + left, axis=1)
    return mass


def method_for(model: Any, prefixes: Ragged, trie: Trie) -> Method:
    """The fastest right method for the whole of a trie; `InputError` if a prefix is empty or too long for some row."""
    lengths = trie.depth[trie.ends]
    deepest = np.full(len(prefixes), lengths.argmax())
    longest = _check_fits(prefixes.lengths, lengths[deepest], Reader(model).context, np.arange(len(prefixes)), deepest)
    return choose_method(model, longest)


def _whole_tries(
    model: Any, prefixes: Ragged, trie: Trie, method: Method, max_batch_tokens: int, *, rest: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some users at a time: their numbers, and the log-probability of each node float64 [users, n_nodes].

    With `rest`, that of leaving the tree at the root and at each node that is read, given that one came there.
    """
    everyone, reader = np.argsort(-prefixes.lengths, kind="stable"), Reader(model)
    block = max(1, _NODES // len(trie))
    for begin in range(0, len(everyone), block):
        users = everyone[begin : begin + block]
        forest, places = Forest.whole(trie, len(users))
        with reader.reading(prefixes.row(0)):
            tokens = reader.batch_tokens(max_batch_tokens)
            scored = read_forest(reader, prefixes.take(users), forest, method, tokens, rest=rest)
            width = len(forest.wanted_bounds) - 1 if rest else len(forest.wanted)
            found = _collected(scored, len(users) * width).reshape(len(users), width)
        if rest:
            yield users, found
            continue
        totals = np.zeros((len(users), len(trie)), dtype=np.float64)
        totals[:, 1:] = found[:, places]
        for first, last in zip(trie.levels[1:-1], trie.levels[2:], strict=True):
            totals[:, first:last] += totals[:, trie.parents[first:last]]
        yield users, totals


def _check_fits(
    before: np.ndarray, after: np.ndarray, context: int | None, owners: np.ndarray, which: np.ndarray
) -> int:
    """The tokens read for the longest pair of a prefix and a candidate; `InputError` if one cannot be scored.

    Args:
        before: tokens of each pair's prefix [n_pairs].
        after: tokens of its candidate [n_pairs].
        context: positions of the model; None where there is no limit.
        owners: the number of each pair's prefix, for messages.
        which: and of its candidate.
    """
    if not before.all():
        raise InputError(f"prefix {owners[before.argmin()]} is empty; a prompt holds at least its header")
    if not after.all():
        raise InputError(f"candidate {which[after.argmin()]} is empty; it holds at least the delimiter")
    worst = int((before + after).argmax())
    longest = int(before[worst] + after[worst]) - 1
    if context is not None and longest > context:
        raise InputError(
            f"prefix {owners[worst]} has {before[worst]} tokens and its candidate {which[worst]} has "
            f"{after[worst]}, but the model has {context} positions; shorten the history or the titles"
        )
    return longest


def _longest_first(prefixes: Ragged, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The prefixes that have candidates, longest first, and the place of each prefix among them."""
    users = np.unique(owners)
    users = users[np.argsort(-prefixes.lengths[users], kind="stable")]
    place = np.full(len(prefixes), -1, dtype=np.int64)
    place[users] = np.arange(len(users))
    return users, place


def _collected(scored: Scored, n: int, n_tokens: int | None = None) -> np.ndarray:
    """Sums by number, float64 [n], of what comes with numbers; `n_tokens` are to come, a token a number unless said."""
    total = np.zeros(n, dtype=np.float64)
    with tqdm(desc="scoring", total=n_tokens or n, unit="token", delay=2, disable=None, leave=False) as bar:
        for numbers, log_probs in scored:
            np.add.at(total, numbers, log_probs)
            bar.update(len(numbers))
    return total


def _whole_rows(
    reader: Reader, prefixes: Ragged, candidates: Ragged, owners: np.ndarray, which: np.ndarray, max_tokens: int
) -> Scored:
    """Method "rows": right-padded rows of a prefix and a candidate, longest first."""
    size = prefixes.lengths[owners] + candidates.lengths[which] - 1
    order = np.argsort(-size, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(size[order[begin]])
        numbers = order[begin : begin + max(1, max_tokens // longest)]
        before, after = prefixes.take(owners[numbers]), candidates.take(which[numbers])
        column = np.arange(longest)
        real = column < size[numbers][:, None]
        ids = np.zeros(real.shape, dtype=np.int64)
        whole = before.join(after)
        ids[real] = np.delete(whole.values, whole.offsets[1:] - 1)
        states = reader.read(ids, reader.tensor(real), np.broadcast_to(column, real.shape))
        row, predicts = np.nonzero(real & (column >= (before.lengths - 1)[:, None]))
        states = states[reader.tensor(row), reader.tensor(predicts)]
        yield numbers[row], reader.log_probs(states, np.arange(len(row)), after.values)
        begin += len(numbers)
