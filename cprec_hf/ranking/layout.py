"""A forest of whole trees as one batch: ids, positions, and who sees whom, as a mask or as segments.

`mask`: trees side by side in rows about as wide as the widest of them, kept apart by one additive mask. Any attention
that takes a mask as it is computes it (`sdpa`, `eager`), and looks at all pairs of a row.

`segments`: all tokens in one row without padding, for `branch_attention`: a trunk's tokens look at the trunk, and what
branches off at one place at the trunk before it and at itself, so that branches at different places, and different
trees, cost each other nothing.

Both are right where every token may see its whole past and positions are handed in; `read_apart` tries it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.ranking.branch_attention import BRANCHES
from cprec_hf.ranking.forest import Forest, sees
from cprec_hf.ranking.reader import Reader, window_of

Form = Literal["mask", "segments"]


def lay_out(forest: Forest, is_trunk: np.ndarray, form: Form) -> dict[str, Tensor]:
    """A batch of all trees of a forest that has no prefixes.

    Args:
        forest: of `Forest.of_trunks`.
        is_trunk: which of its tokens are the trunks', bool [n_tokens] (see `trunk_tokens`).
        form: see the module.

    Returns:
        `input_ids` and `position_ids`, int64 [rows, columns]; `place`, where each token of the forest stands in them
        read row after row, int64 [n_tokens]; and what `model_inputs` makes attention of, int64: of the form "mask"
        `number` and `end` [rows, columns], of "segments" `trunk` [trees, longest trunk], `branch` and `branch_end`
        [forks, most tokens at a fork], `fork_tree` and `fork` [forks]; numbers of tokens, -1 for padding.
    """
    n = len(forest.tokens)
    if form == "segments":
        out = {"input_ids": forest.tokens[None], "position_ids": forest.depth[None], "place": np.arange(n)}
        return {name: torch.from_numpy(a) for name, a in (out | _segments(forest, is_trunk)).items()}
    sizes = np.diff(forest.bounds)
    row, column = _shelves(sizes)
    within = np.arange(n) - np.repeat(forest.bounds[:-1], sizes)
    rows, columns = np.repeat(row, sizes), np.repeat(column, sizes) + within
    shape = int(row.max()) + 1, int((column + sizes).max())
    arrays: dict[str, np.ndarray] = {"place": rows * shape[1] + columns}
    for name, values, fill in (
        ("input_ids", forest.tokens, 0), ("position_ids", forest.depth, 0),
        ("number", np.arange(n), -1), ("end", forest.end, 0),
    ):  # fmt: skip
        arrays[name] = np.full(shape, fill, dtype=np.int64)
        arrays[name][rows, columns] = values
    return {name: torch.from_numpy(a) for name, a in arrays.items()}


def trunk_tokens(forest: Forest, trunks: Ragged) -> np.ndarray:
    """Which tokens of a forest are trunks', bool [n_tokens]; `trunks` are the places that `of_trunks` gives."""
    sources = np.repeat(np.arange(len(forest.wanted_bounds) - 1), np.diff(forest.wanted_bounds))
    found = np.zeros(len(forest.tokens), dtype=bool)
    predicted = np.delete(trunks.values, trunks.offsets[:-1])  # all but the first token of each, which nothing predicts
    found[sources[predicted] - forest.n_trees] = True
    return found


def model_inputs(model: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
    """What a model is called with to read a batch of `lay_out`, which is on its device already.

    Args:
        model: of transformers or PEFT; reading "segments", its attention is `branch_attention.BRANCHES`.
        batch: as `lay_out` gives it; what else is in it is left alone.
    """
    reader = Reader(model)
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    if "trunk" not in batch:
        number, positions = batch["number"], batch["position_ids"]
        seen = sees(number[:, :, None], number[:, None, :], batch["end"][:, None, :])
        seen |= torch.eye(number.shape[1], dtype=torch.bool, device=seen.device)  # padding sees itself, if nothing else
        return inputs | {"attention_mask": reader.tree_mask(reader.mask_of(seen), positions, positions)}
    trunk, branch, fork = batch["trunk"], batch["branch"], batch["fork"]
    longest = int(fork.max()) if len(fork) else 0
    before = torch.arange(longest, device=fork.device)
    seen = torch.cat(
        [
            (before < fork[:, None])[:, None, :].expand(-1, branch.shape[1], -1),
            sees(branch[:, :, None], branch[:, None, :], batch["branch_end"][:, None, :]),
        ],
        dim=-1,
    )
    keys = torch.cat([trunk[batch["fork_tree"], :longest], branch], dim=-1)
    read = torch.cat([trunk.flatten(), branch.flatten()])
    back = torch.empty(batch["place"].shape, dtype=torch.long, device=read.device)
    real = (read >= 0).nonzero().flatten()
    back[read[real]] = real
    segments = {"trunk": trunk.clamp(min=0), "queries": branch.clamp(min=0), "keys": keys.clamp(min=0), "back": back}
    segments["mask"] = reader.mask_of(seen)[:, None]
    # A mask of four dimensions is taken as ready, and kept from being made: the attention above does not look at it.
    return inputs | {"attention_mask": reader.mask_of(seen.new_ones(1, 1, 1, 1)), "branches": segments}


def choose_form(model: Any, depth: int) -> Form:
    """ "segments" where the model's attention is set to `BRANCHES` and no window is shorter than `depth`."""
    config = model.config.get_text_config()
    window = window_of(config)
    return "segments" if config._attn_implementation == BRANCHES and (window is None or window >= depth) else "mask"


@torch.no_grad()
def read_apart(model: Any, form: Form, depth: int, width: int) -> bool:
    """Whether a model reads branches as it reads each sequence alone, tried on a tree as large as those to come.

    Args:
        model: a causal language model of transformers, without a PEFT wrapper; left as it was.
        form: to be tried.
        depth: most tokens of a sequence, 8 at least.
        width: most tokens of a tree.

    Returns:
        False too where the model cannot be called so at all.
    """
    rng, vocabulary = np.random.default_rng(0), model.config.get_text_config().vocab_size
    each = max(depth // 4, 2)
    n_branches = max(2, (width - depth) // each)
    begins = np.sort(rng.integers(1, max(depth - each, 2), n_branches))
    tokens = [rng.integers(0, vocabulary, n).astype(np.int32) for n in (depth, n_branches * each)]
    branches = Ragged(tokens[1], offsets_of(np.full(n_branches, each)))
    trunk = Ragged(tokens[0], np.array([0, depth]))
    forest, trunks, places = Forest.of_trunks(trunk, np.zeros(n_branches, dtype=np.int64), begins, branches)
    batch = {k: v.to(model.device) for k, v in lay_out(forest, trunk_tokens(forest, trunks), form).items()}
    sources = np.repeat(np.arange(len(forest.wanted_bounds) - 1), np.diff(forest.wanted_bounds)) - forest.n_trees
    tolerance = 1e-2 if torch.finfo(model.dtype).bits >= 32 else 5e-2
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        read = model.base_model(**model_inputs(model, batch), use_cache=False)[0].flatten(0, 1)[batch["place"]]
        for b in (0, n_branches - 1):
            whole = np.concatenate([tokens[0][: begins[b]], branches.row(b)[:-1]]).astype(np.int64)
            ids = torch.from_numpy(whole).to(model.device)
            alone = model.base_model(input_ids=ids[None], use_cache=False)[0][0, begins[b] - 1 :].float()
            ours = read[torch.from_numpy(sources[places.row(b)]).to(model.device)].float()
            if not (ours - alone).abs().max() <= tolerance * alone.abs().max():
                return False
    except Exception:  # whatever a model does with what it does not expect
        return False
    finally:
        for module, training in modes:
            module.training = training
    return True


def _segments(forest: Forest, is_trunk: np.ndarray) -> dict[str, np.ndarray]:
    """See `lay_out`."""
    numbers = np.flatnonzero(is_trunk)
    of_tree = np.searchsorted(numbers, forest.bounds)
    trunk = _padded(numbers, np.diff(of_tree))
    branch = np.flatnonzero(~is_trunk)
    _, first, sizes = np.unique(np.cumsum(is_trunk)[branch], return_index=True, return_counts=True)
    leaves = branch[first]
    return {
        "trunk": trunk,
        "branch": _padded(branch, sizes),
        "branch_end": _padded(forest.end[branch], sizes, fill=0),
        "fork_tree": np.searchsorted(forest.bounds, leaves, side="right") - 1,
        "fork": forest.depth[leaves],
    }


def _padded(values: np.ndarray, lengths: np.ndarray, fill: int = -1) -> np.ndarray:
    """Rows of those lengths, one after the other in `values`, padded on the right, int64 [rows, longest]."""
    real = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    out = np.full(real.shape, fill, dtype=np.int64)
    out[real] = values
    return out


def _shelves(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and first column of each tree: first fit, the largest first, into rows as wide as the largest."""
    row, column = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    filled = np.zeros(len(sizes), dtype=np.int64)
    for tree in np.argsort(-sizes, kind="stable"):  # as many as a batch has users
        row[tree] = np.argmax(filled + sizes[tree] <= sizes.max())
        column[tree] = filled[row[tree]]
        filled[row[tree]] += sizes[tree]
    return row, column
