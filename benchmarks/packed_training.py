"""How fast a stage trains, against stock TRL on the same rows: `python benchmarks/packed_training.py [--toy]`.

A Qwen3 shape of hidden 96 and 2 layers, vocabulary 1,024, documents of 40 to 240 tokens packed into 8 blocks of 256.
Stock TRL flattens the 8 blocks into one row of 2,048 (what it does for FlashAttention); ours keeps them apart. Reported
per second of CPU time, so that a loaded machine does not distort the comparison, and per second of wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import trl
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training.packing import pack_rows
from cprec_hf.training.trainer import StageTrainer

VOCABULARY, BLOCK, BATCH = 1024, 256, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="2 steps, to see that it runs and agrees")
    steps = 2 if parser.parse_args().toy else 20
    datasets.disable_progress_bars()
    lengths = np.random.default_rng(0).integers(40, 240, 2000)
    ids = pa.array(
        [
            row.tolist()
            for row in np.split(
                np.random.default_rng(1).integers(1, VOCABULARY, lengths.sum()), np.cumsum(lengths)[:-1]
            )
        ],
        pa.list_(pa.int32()),
    )
    rows = datasets.Dataset(pa.table({"input_ids": ids, "labels": ids}))
    sides = {"stock TRL, flattened": stock(rows, steps), "cprec_hf": ours(rows, steps)}
    losses = loss_of_one_batch(rows, *sides.values())
    speeds = {}
    for name, trainer in sides.items():
        cpu, wall = time.process_time(), time.perf_counter()
        trainer.train()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        tokens = steps * BATCH * BLOCK
        speeds[name] = tokens / cpu
        print(f"{name:<22} {tokens / cpu:>9,.0f} tokens a CPU second {tokens / wall:>9,.0f} a second", flush=True)
    stock_speed, our_speed = speeds.values()
    difference = abs(losses[0] - losses[1])
    assert difference < 1e-4, losses
    print(f"ratio {our_speed / stock_speed:.2f}; loss of the same batch differs by {difference:.1e} nats a token")


def loss_of_one_batch(rows: datasets.Dataset, *trainers: trl.SFTTrainer) -> list[float]:
    """The loss each side gives the same packed blocks under the same weights, in nats a token."""
    blocks = [pack_rows(rows, BLOCK, 0)[i] for i in range(BATCH)]
    weights = trainers[0].model.state_dict()
    losses = []
    for trainer in trainers:
        trainer.model.load_state_dict(weights)
        batch = trainer.data_collator(blocks)
        losses.append(float(trainer.compute_loss(trainer.model, batch).detach()))
    return losses


def arguments(steps: int) -> trl.SFTConfig:
    return trl.SFTConfig(
        tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3, max_length=BLOCK,
        packing=True, packing_strategy="bfd_split", shuffle_dataset=True, use_cpu=True, bf16=False,
        activation_checkpointing=False, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip


def model() -> Any:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, head_dim=24, tie_word_embeddings=True,
        )
    )  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<pad>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=words, merges=[])), pad_token="<pad>", eos_token="<pad>"
    )


def stock(rows: datasets.Dataset, steps: int) -> trl.SFTTrainer:
    return trl.SFTTrainer(model(), arguments(steps), train_dataset=rows, processing_class=tokenizer())


def ours(rows: datasets.Dataset, steps: int) -> StageTrainer:
    record = ModelRecord("cpt", "", "1", 24, 20, None, "", None, "", {}, 0, 0, [])
    packed = pack_rows(rows, BLOCK, 0)
    return StageTrainer(
        model(), arguments(steps), packed, tokenizer=tokenizer(), record=record, phases=None, items=pa.table({})
    )


if __name__ == "__main__":
    main()
