"""Saving a stage: checkpoints and the finished model are whole or not there, and say what they are."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import rotate_checkpoints

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.files import require_free_space, use_default_modes, without_interrupts
from cprec_hf.hub.cards import render_model_card
from cprec_hf.hub.model_card import training_facts
from cprec_hf.hub.needs import BYTES_A_PARAMETER
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.trie_file import TRIE_FILE
from cprec_hf.training.averaging import average_weights
from cprec_hf.training.checkpoints import STAGING
from cprec_hf.training.packing import Order
from cprec_hf.training.state import ResumableTrainer

_SAVING, _FINAL = STAGING


class SavingTrainer(ResumableTrainer):
    """The part of every stage's trainer that writes to disk, to be mixed in before one of TRL's.

    Attributes:
        record: what the model's `cprec.json` will say; its tokens are counted here.
        items: the item table saved beside the final model.
        order: which row comes when.
        tokenizer: saved beside the model.
        averaged: steps whose checkpoints the finished model is the mean of; none for the last step's model.
    """

    record: ModelRecord
    items: pa.Table
    order: Order
    tokenizer: PreTrainedTokenizerBase
    averaged: list[int]
    _run_folder: str | None = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL would write its own card at every save; ours is written into each folder that is saved."""

    def _get_output_dir(self, trial: Any) -> str:
        return self._run_folder or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint into a staging folder, complete it, and rename it into place."""
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._run_folder = str(folder / _SAVING)
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
            if self.args.should_save:
                staged = folder / _SAVING / name
                self.state.save_to_json(str(staged / "trainer_state.json"))
                self._describe(staged, self.state.global_step)
                use_default_modes(staged)
                shutil.rmtree(folder / name, ignore_errors=True)
                staged.rename(folder / name)
        finally:
            self._run_folder = None
            if self.args.should_save:
                shutil.rmtree(folder / _SAVING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if state_dict:  # gathered from many processes, weights that are one come as two
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", None) or {}
            state_dict = {key: value for key, value in state_dict.items() if tied.get(key) not in state_dict}
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle that holds local paths and whatever else the arguments hold
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _describe(self, folder: Path, step: int) -> None:
        """Write `cprec.json` and the card for the model in `folder`, which is that of `step`."""
        schedule = {**self.record.schedule, "step": step}
        record = dataclasses.replace(self.record, tokens=self.order.tokens(step), schedule=schedule)
        name = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        adapter = (folder / "adapter_config.json").exists()
        values = dataclasses.asdict(record)
        training = training_facts(values, self.state.log_history)
        card = {"record": values, "model_name": name, "training": training, "adapter": adapter}
        card["items"] = (folder / "items.parquet").exists()  # of the finished model; a checkpoint has none
        (folder / "README.md").write_text(render_model_card(card), encoding="utf-8")
        record.save(folder)

    def save_final(self, folder: Path) -> None:
        """Stage the finished model, then move its files to the root, `cprec.json` last: where it is, all is there."""
        staging = folder / _FINAL
        try:
            self.save_model(str(staging), _internal_call=True)
            if self.args.should_save:
                if self.averaged:
                    average_weights(folder, self.averaged, staging)
                    schedule = {**self.record.schedule, "averaged_steps": self.averaged}
                    self.record = dataclasses.replace(self.record, schedule=schedule)
                pq.write_table(self.items, staging / "items.parquet")
                if self.record.domain:
                    encoder, template = Encoder(self.tokenizer), load_template(self.record.template_version)
                    Catalogue(self.items, self.record.domain, encoder, template).save_trie(staging / TRIE_FILE)
                best = self.state.best_global_step if self.args.load_best_model_at_end else None
                self._describe(staging, best or self.state.global_step)
                use_default_modes(staging)
                with without_interrupts():
                    (folder / "cprec.json").unlink(missing_ok=True)
                    for path in sorted(staging.iterdir(), key=_place_in_final):
                        if path.is_dir():
                            shutil.rmtree(folder / path.name, ignore_errors=True)
                        path.replace(folder / path.name)
                # Once more: a run that was killed in its last rotation saves no further checkpoint.
                rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        finally:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()


def _place_in_final(path: Path) -> int:
    """The items first, which no plain language model has, and the record last: between them, nothing looks whole."""
    return {"items.parquet": 0, "cprec.json": 2}.get(path.name, 1)


def require_space(args: Any, done: int, existing: int, parameters: int) -> None:
    """Refuse a disk too small for what a run will add to it.

    Args:
        args: of the run.
        done: steps that are done already.
        existing: checkpoints of the run that are there already.
        parameters: that are trained.
    """
    saves = 0
    if args.save_strategy.value == "steps":
        interval = args.save_steps if args.save_steps >= 1 else args.save_steps * args.max_steps
        saves = math.ceil((args.max_steps - done) / interval)
    kept = min(existing + saves, args.save_total_limit or existing + saves)
    added = max(kept - existing, 0) + 1  # a new one is there before an old one goes, and so is the model
    require_free_space(args.output_dir, added * parameters * BYTES_A_PARAMETER)
