"""Fine-tuning on yes or no: would the user choose this item next? A baseline, TALLRec's form (arXiv 2305.00447).

    python -m cprec_hf.training.pointwise --config recipes/tiny/pointwise.yaml

Each training row gives a question about its target, answered yes, and `negatives` questions about items the user did
not choose, answered no (`negatives.py`). The loss is over the answers only. Such a model ranks by
`ranking.pointwise.pointwise_scores`, in an evaluation as `kind: pointwise`; so does the probe while it trains.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.few_shot import RANK
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.pointwise import Questions, pointwise_scores
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.training.adapter import new_adapter
from cprec_hf.training.arguments import PointwiseArguments, parse_stage
from cprec_hf.training.data import corpus_table, labelled
from cprec_hf.training.negatives import COLUMNS, negatives_of
from cprec_hf.training.preference_rows import choices_of
from cprec_hf.training.probe import ranking_metrics
from cprec_hf.training.sft import choose_domain, stop_early
from cprec_hf.training.stage import (
    data_order,
    fix_run_length,
    item_table,
    load_start,
    make_record,
    prepare_rows,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.subset import few_users, subset_of
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.trunks import resume_point


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: the recipe, the corpus, the model or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("pointwise", argv):
        arguments, training, model_arguments, given = parse_stage("pointwise", PointwiseArguments, argv)
        refuse_own_input(training, model_arguments.model_name_or_path, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        domain, config = choose_domain(arguments, facts)
        sizes = facts["template"]
        if "max_length" not in given:
            training.max_length = sizes["window_tokens"]
        callbacks = stop_early(arguments.early_stopping_patience, training, given)

        model, tokenizer = load_start(model_arguments)
        encoder, items, template = Encoder(tokenizer), item_table(arguments), load_template(sizes["version"])
        catalogue = Catalogue(items, domain, encoder, template)
        questions = Questions(catalogue, encoder, template)
        data, tables = {}, {}
        for split in ["train"] if training.eval_strategy == "no" else ["train", "validation"]:
            table = corpus_table(arguments.corpus, arguments.corpus_revision, config, split, COLUMNS, [RANK])
            if split == "train":
                table = few_users(table, arguments.train_share, arguments.subset_seed)
            negatives = negatives_of(table, catalogue, arguments.negatives, f"{facts['name']}/{training.seed}/{domain}")
            rows = pointwise_rows(table, questions, negatives, sizes, int(training.max_length))
            where = f"{arguments.corpus} {config}/{split}"
            data[split], tables[split] = prepare_rows(rows, model, training, split_long=False, where=where), table
        fix_run_length(training, len(data["train"]))
        phases = run_phases(training)

        base, commit = str(model_arguments.model_name_or_path), model_arguments.model_revision
        about = data_order(training, len(data["train"]), None, 0.0) | {"negatives": arguments.negatives}
        about |= subset_of(arguments)
        record = make_record(
            "pointwise", arguments, training, facts, phases,
            tokenizer=tokenizer, base=base, base_revision=commit, domain=domain, data=about,
        )  # fmt: skip
        probe = None
        if "validation" in data:
            probe = PointwiseProbe(Recommender(model, tokenizer, record, items), tables["validation"], arguments)
        trainer = StageTrainer(
            model,
            training,
            data["train"],
            eval_rows=data.get("validation"),
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=items,
            probe=probe,
            resume=resume,
            loss_head=arguments.loss_head,
            peft_config=new_adapter(model_arguments, model),
            callbacks=callbacks,
        )
        return trainer.run()


def pointwise_rows(
    rows: pa.Table, questions: Questions, negatives: np.ndarray, sizes: Mapping[str, Any], length: int
) -> datasets.Dataset:
    """Columns `input_ids` and `labels`: each row's question about its target, then those about its negatives.

    Args:
        rows: history, target and candidates, as the corpus has them.
        questions: about the domain's titles.
        negatives: rows of the catalogue, int64 [n_rows, count].
        sizes: the corpus' `template`: history_length, candidate_list_in_prompt.
        length: most tokens of a prompt with a question and its answer.

    Raises:
        InputError: there are no rows, or a title does not fit `length` with the prompt's header and the question.
    """
    request = choices_of(rows, questions.catalogue, negatives, sizes, length)
    each = request.codes.shape[1]
    prompts = questions.prompts(request).take(np.repeat(np.arange(len(request.codes)), each))
    codes, yes = request.codes.ravel(), np.arange(request.codes.size) % each == 0
    before = prompts.join(questions.asked.take(codes))
    return labelled(before, questions.answers.take(np.where(yes, 0, 1)))


class PointwiseProbe:
    """hr@1 and ndcg@10 of yes against no over the frozen candidates of some validation rows.

    Args:
        recommender: around the model that is trained.
        rows: of the validation split.
        arguments: `probe_users` and the corpus, for the message.

    Raises:
        InputError: no validation rows, or `probe_users` below 1.
    """

    def __init__(self, recommender: Recommender, rows: pa.Table, arguments: PointwiseArguments) -> None:
        rows = rows.slice(0, max(arguments.probe_users, 0))
        if not rows.num_rows:
            raise InputError(f"{arguments.corpus}: `probe_users` {arguments.probe_users} leaves no row to rank")
        self.recommender = recommender
        self.histories, self.candidates = rows["history"].to_pylist(), rows["candidates"].to_pylist()
        width = len(self.candidates[0])
        flat, owners = rows["candidates"].combine_chunks().flatten(), np.repeat(np.arange(rows.num_rows), width)
        targets = rows["target"].combine_chunks().take(pa.array(owners))
        self.relevance = np.asarray(pc.equal(flat, targets)).reshape(-1, width)

    def __call__(self, model: Any) -> dict[str, float]:
        """hr@1 and ndcg@10, means over the rows."""
        self.recommender.model = model
        return ranking_metrics(pointwise_scores(self.recommender, self.histories, self.candidates), self.relevance)


if __name__ == "__main__":
    run_as_command(main)
