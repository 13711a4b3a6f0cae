"""Random models that are sure of what they predict, and the slow way to read them."""

from typing import Any

import numpy as np
import torch
import transformers

from cprec_hf.corpus.ragged import Ragged

VOCABULARY = 97
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
MIXED = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
LOCAL = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full attention": (transformers.Qwen3Config, GROUPED),
    "sliding windows": (transformers.MistralConfig, GROUPED | {"sliding_window": 7}),
    "some sliding windows": (transformers.Gemma3TextConfig, GROUPED | MIXED),
    "a table of positions": (transformers.GPT2Config, SHAPE | {"n_positions": 64}),
    "a bias buffer": (transformers.GPTNeoConfig, SHAPE | LOCAL | {"max_position_embeddings": 64}),
}


def random_model(config: Any, **values: Any) -> Any:
    """A small random model: logits several nats apart."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(**values), dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.25)
    return model.eval()


def one_at_a_time(model: Any, prefixes: Ragged, candidates: Ragged, owners: np.ndarray) -> np.ndarray:
    """One forward pass a candidate, nothing cached, nothing padded."""
    scores = []
    for number, owner in enumerate(owners):
        prefix, candidate = (torch.tensor(r.astype(np.int64)) for r in (prefixes.row(owner), candidates.row(number)))
        predicted = next_tokens(model, torch.cat([prefix, candidate[:-1]]))[len(prefix) - 1 :]
        scores.append(predicted.gather(1, candidate[:, None]).sum().item())
    return np.array(scores)


def next_tokens(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities float64 [n, vocabulary] of what follows each of `ids` [n]."""
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(-1)


def random_rows(rng: np.random.Generator, lengths: Any, *, most: int = VOCABULARY, end: int | None = None) -> Ragged:
    """Rows of tokens from 2 to `most`; with `end`, that token comes last and the rows are distinct."""
    rows = [tuple(rng.integers(2, most, length).tolist()) for length in lengths]
    return Ragged.from_lists(rows if end is None else sorted({(*row, end) for row in rows}))
