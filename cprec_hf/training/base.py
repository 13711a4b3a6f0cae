"""Pre-train a compact language model on what the items are: it knows the words, not the behaviour.

    python -m cprec_hf.training.base --config recipes/tiny/base.yaml

Builds a model of Qwen3's shape from the recipe's keys, with the corpus' tokenizer, and trains it on the item documents
of all domains. It stands in for a pre-trained LM of the Hub where one is too large for the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM, set_seed

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import corpus_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.training.arguments import BaseArguments, parse_stage
from cprec_hf.training.data import item_rows
from cprec_hf.training.stage import (
    data_order,
    fix_run_length,
    item_table,
    make_record,
    prepare_rows,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.trunks import resume_point


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the finished model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: something in the recipe, the corpus or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("base", argv):
        arguments, training, _, given = parse_stage("base", BaseArguments, argv)
        refuse_own_input(training, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]

        tokenizer = corpus_tokenizer(arguments.corpus, arguments.corpus_revision)
        set_seed(training.seed)
        model = build_model(arguments, tokenizer)
        rows = item_rows(arguments.corpus, arguments.corpus_revision, Encoder(tokenizer))
        rows = prepare_rows(rows, model, training, split_long=True, where=f"{arguments.corpus} items")
        fix_run_length(training, len(rows))
        phases = run_phases(training)

        order = data_order(training, len(rows), None, 0.0)
        record = make_record("base", arguments, training, facts, phases, tokenizer=tokenizer, base="", data=order)
        trainer = StageTrainer(
            model, training, rows,
            tokenizer=tokenizer, record=record, phases=phases, items=item_table(arguments), resume=resume,
            loss_head=arguments.loss_head,
        )  # fmt: skip
        return trainer.run()


def build_model(arguments: BaseArguments, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A Qwen3 of the recipe's shape with random weights from the current seed; input and output embeddings are one.

    Raises:
        InputError: the heads do not divide.
    """
    width, heads = arguments.hidden_size, arguments.num_attention_heads
    kv_heads = arguments.num_key_value_heads or heads
    if heads % kv_heads or (arguments.head_dim is None and width % heads):
        raise InputError(
            f"`hidden_size` {width}, `num_attention_heads` {heads} and `num_key_value_heads` {kv_heads} do not divide; "
            "give multiples, or `head_dim`"
        )
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=arguments.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=arguments.head_dim or width // heads,
            intermediate_size=arguments.intermediate_size or 8 * width // 3,
            max_position_embeddings=arguments.max_position_embeddings,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


if __name__ == "__main__":
    run_as_command(main)
