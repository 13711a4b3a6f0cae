"""Keys that would do nothing in a stage, and why: a recipe that gives one is refused instead of believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprec_hf.errors import InputError

_LOSS = "the loss is the mean negative log-likelihood of the next token"
_ORDER = "rows come in an order of their own, shuffled anew each epoch, from which runs resume and anneals branch"
_PACKING = "documents are packed side by side without seeing one another"
_READY = "rows are token ids already, made by the corpus' encoder, and none is cut"
_BITS = "quantised weights are not supported; train an adapter with `dtype: bfloat16`"
_KERNELS = "Liger's kernels are used wherever there is a GPU"

# Key -> the one value that says what is done anyway, and why no other is taken.
_FIXED: Mapping[str, tuple[Any, str]] = {
    "trust_remote_code": (False, "no code of a repo is run"),
    "label_smoothing_factor": (0.0, _LOSS),
    "average_tokens_across_devices": (True, _LOSS + ", over all processes"),
    "loss_type": ("nll", _LOSS),
    "assistant_only_loss": (False, "no row is a conversation"),
    "train_sampling_strategy": ("random", _ORDER),
    "length_column_name": ("length", _ORDER),
    "shuffle_dataset": (False, _ORDER),
    "auto_find_batch_size": (False, _ORDER),
    "ignore_data_skip": (False, _ORDER),
    "dataloader_drop_last": (False, _ORDER),
    "packing_strategy": ("bfd_split", _PACKING),
    "padding_free": (False, _PACKING),
    "eval_packing": (None, "validation rows are packed as training rows are"),
    "truncation_mode": ("keep_start", _READY),
    "dataset_text_field": ("text", _READY),
    "dataset_kwargs": (None, _READY),
    "dataset_num_proc": (None, _READY),
    "chat_template_path": (None, _READY),
    "model_init_kwargs": (None, "give `dtype` and `attn_implementation`"),
    "use_liger_kernel": (False, _KERNELS),
    "liger_kernel_config": (None, _KERNELS),
    "load_in_4bit": (False, _BITS),
    "load_in_8bit": (False, _BITS),
    "bnb_4bit_quant_type": ("nf4", _BITS),
    "bnb_4bit_quant_storage": (None, _BITS),
    "use_bnb_nested_quant": (False, _BITS),
    "lora_task_type": ("CAUSAL_LM", "every stage trains a causal language model"),
    "do_train": (False, "a stage trains"),
    "do_eval": (False, "give `eval_strategy: steps`"),
    "do_predict": (False, "use `cprec evaluate`"),
    "hub_always_push": (False, "every save is pushed, in order, whatever the last push is at"),
    "hub_revision": (None, "the finished model goes to main, checkpoints to branches of their own"),
    "hub_token": (None, "a recipe is no place for secrets; set HF_TOKEN"),
}

_DPO = "the loss is the softmax DPO loss, DPO's own with one negative"
_START = "the reference is the start, read with each batch"

# The same for the keys that only trl.DPOConfig has, or has with another default.
_FIXED_OF: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "preference": {
        "loss_type": (["sigmoid"], _DPO),
        "loss_weights": (None, _DPO),
        "label_smoothing": (0.0, _DPO),
        "ld_alpha": (None, _DPO),
        "f_divergence_type": ("reverse_kl", _DPO),
        "f_alpha_divergence_coef": (0.5, _DPO),
        "use_weighting": (False, _DPO),
        "discopop_tau": (0.05, _DPO),
        "router_aux_loss_coef": (None, _DPO),
        "precompute_ref_log_probs": (False, _START),
        "precompute_ref_batch_size": (None, _START),
        "sync_ref_model": (False, _START),
        "ref_model_mixup_alpha": (0.6, _START),
        "ref_model_sync_steps": (512, _START),
        "pad_to_multiple_of": ("auto", "a batch is as wide as its longest row"),
        "pad_token": (None, "it is the tokenizer's"),
    }
}

_LORA = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "use_rslora", "use_dora",
)  # fmt: skip
_MODEL = ("model_revision", "dtype", "use_peft", *_LORA)
_NO_ROWS = "it reads no validation rows"

# Stage -> key -> why it has no place there, whatever its value.
_NO_PLACE: Mapping[str, Mapping[str, str]] = {
    "base": {
        "model_name_or_path": "`base` builds a new model; to go on from one, use `cpt`",
        **dict.fromkeys((*_MODEL, "attn_implementation"), "`base` builds a new model, in float32"),
        "completion_only_loss": "item documents are no completions",
        "eval_strategy": _NO_ROWS,
    },
    "cpt": {"completion_only_loss": "documents are no completions"},
    "anneal": {
        "max_steps": "give `anneal_steps`",
        "num_train_epochs": "give `anneal_steps`",
        "warmup_steps": "an anneal has no warmup of its own",
        "learning_rate": "the peak is the trunk's",
        "lr_scheduler_type": "an anneal is WSA's last phase",
        "model_name_or_path": "give the trunk as `init_from`",
        **dict.fromkeys(_MODEL, "the model goes on as the trunk's, an adapter as an adapter"),
        **dict.fromkeys(
            ("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
            "the optimizer and its state are the trunk's",
        ),
        "completion_only_loss": "documents are no completions",
    },
    "sft": {},
    "preference": {"loss_head": "its log-probabilities are those of TRL's fused head"},
    "pointwise": {"completion_only_loss": "the loss is over the answers"},
    "listwise": {
        "completion_only_loss": "the language-model loss is over whole histories; see `lm_weight`",
        "packing": "histories and their branches lie side by side already",
    },
}


def refuse_idle_keys(stage: str, given: set[str], training: Any, model: Any, where: str) -> None:
    """Refuse keys of TRL's that the stage would not act on.

    Args:
        stage: base, cpt, anneal, sft, preference, pointwise, listwise.
        given: the keys that the recipe or a flag gave.
        training: the parsed trl.SFTConfig, or trl.DPOConfig for preference.
        model: the parsed trl.ModelConfig.
        where: the recipe, for the message.

    Raises:
        InputError: the first such key, with the reason.
    """
    fixed = {**_FIXED, **_FIXED_OF.get(stage, {})}
    for key in sorted(given):
        why = _NO_PLACE[stage].get(key)
        value = getattr(training, key, getattr(model, key, None))
        value = getattr(value, "value", value)
        if why is None and key in fixed and value != fixed[key][0]:
            why = fixed[key][1]
        if why is None and key in _LORA and not model.use_peft:
            why = "it is an adapter's; give `use_peft: true`"
        # `eval_strategy: no` says what is done anyway.
        if why is not None and not (key == "eval_strategy" and value == "no"):
            raise InputError(f"{where}: `{key}` has no place in {stage}: {why}")
