"""Our sequential models against cornac's: `python benchmarks/sequential.py [--toy] [--json FILE]`.

The same walks, the same widths and epochs, in one process and on one thread each. Every item is followed by one certain
other with probability 0.7, else by any; a model that learnt that ranks the certain one first after an unseen walk. The
check: ours does so no more than 0.05 less often than cornac's. The ratio: cornac's CPU seconds over ours. BERT4Rec is
left out, for cornac trains its own on prefixes and not on masked items, which is other work; a test holds ours to
transformers' BERT instead. Needs `pip install cornac`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.evaluation.sequential.batches import padded
from cprec_hf.evaluation.sequential.gru4rec import Gru4rec, Gru4recSettings
from cprec_hf.evaluation.sequential.sasrec import Sasrec, SasrecSettings
from cprec_hf.evaluation.sequential.trainer import Schedule, train_model

WIDTH, LENGTH = 32, 10


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="few walks and epochs, to see that it runs")
    parser.add_argument("--json", help="where to write the figures")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    items, users, epochs = (15, 60, 10) if given.toy else (100, 500, 10)
    rng = np.random.default_rng(0)
    follower = rng.permutation(items)
    train, test = walks(follower, users, rng), walks(follower, 500, rng)[:, :-1]
    found = {}
    for name, (ours, theirs) in models(items, epochs).items():
        seconds, first = timed(lambda ours=ours: ours(train, test))
        their_seconds, their_first = timed(lambda theirs=theirs: theirs(train, test))
        right, their_right = (float((f == follower[test[:, -1]]).mean()) for f in (first, their_first))
        found[name] = {
            "right": right, "cornac_right": their_right, "seconds": seconds, "cornac_seconds": their_seconds,
            "ratio": their_seconds / seconds, "agrees": right >= their_right - 0.05,
        }  # fmt: skip
        print(
            f"{name}: right {right:.3f} in {seconds:.1f} s, cornac {their_right:.3f} in {their_seconds:.1f} s; "
            f"ratio {their_seconds / seconds:.1f}",
            flush=True,
        )
    if given.json:
        about = {"items": items, "walks": users, "epochs": epochs, "models": found}
        Path(given.json).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    assert all(row["agrees"] for row in found.values()), "ours ranks worse than cornac's"


def walks(follower: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """[n, LENGTH] items."""
    steps = [rng.integers(0, len(follower), n)]
    for _ in range(LENGTH - 1):
        steps.append(np.where(rng.random(n) < 0.7, follower[steps[-1]], rng.integers(0, len(follower), n)))
    return np.stack(steps, axis=1)


def models(items: int, epochs: int) -> dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]]:
    """By name, ours and cornac's: from walks and histories to the item that is ranked first after each history."""
    from cornac.models import GRU4Rec, SASRec

    shared = {"n_epochs": epochs, "batch_size": 32, "n_sample": items, "learning_rate": 3e-3, "seed": 1}
    attention = {"embedding_dim": WIDTH, "max_len": LENGTH, **shared}
    sizes = {"width": WIDTH, "history": LENGTH}
    return {
        "SASRec": (
            lambda *data: ours(Sasrec(items, SasrecSettings(**sizes)), epochs, *data),
            lambda *data: cornacs(SASRec(**attention), *data),
        ),
        "GRU4Rec": (
            lambda *data: ours(Gru4rec(items, Gru4recSettings(hidden=WIDTH, **sizes)), epochs, *data),
            lambda *data: cornacs(GRU4Rec(layers=[WIDTH], **shared), *data),
        ),
    }


def ours(model: Any, epochs: int, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    number = itertools.count()
    schedule = Schedule(max_epochs=epochs, patience=epochs, learning_rate=3e-3, batch_items=32 * 3)
    train_model(model, Ragged.from_lists(train.tolist()), lambda: float(next(number)), schedule, 0, "ours")
    model.eval()
    with torch.inference_mode():
        return model.logits(model.last(*padded(Ragged.from_lists(test.tolist()), model.history))).argmax(1).numpy()


def cornacs(model: Any, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    from cornac.data.dataset import SequentialDataset

    n = int(train.max()) + 1
    rows = [(f"u{u}", f"s{u}", f"i{item}", place) for u, walk in enumerate(train) for place, item in enumerate(walk)]
    data = SequentialDataset.build(rows, fmt="USIT", seed=1)
    code = np.array([data.iid_map[f"i{item}"] for item in range(n)])
    model.fit(data)
    scores = [np.asarray(model.score(0, code[walk].tolist())).ravel()[code] for walk in test]
    return np.stack(scores).argmax(axis=1)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds, so that a loaded machine does not distort them, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
