"""The LoRA adapter a recipe asks for: on all linear layers unless it says else, embeddings whole beside it or not."""

from __future__ import annotations

from typing import Any

import trl

from cprec_hf.errors import InputError


def new_adapter(arguments: Any, model: Any) -> Any:
    """The adapter a recipe asks for, on the commit of the base that is read; None without `use_peft`.

    Embeddings are trained whole (`lora_modules_to_save`), and stay tied where they are.

    Args:
        arguments: a trl.ModelConfig, after `load_start`.
        model: the base.

    Raises:
        InputError: a module to save that the model does not have, or an embedding among the targets.
    """
    config: Any = trl.get_peft_config(arguments)
    if config is None:
        return None
    config.revision = arguments.model_revision
    ends = [id(end) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    modules = {name.split(".")[-1]: id(module) in ends for name, module in model.named_modules()}
    saved, targets = config.modules_to_save or [], config.target_modules
    if unknown := [name for name in saved if name.split(".")[-1] not in modules]:
        raise InputError(f"`lora_modules_to_save` names {unknown[0]!r}, and {type(model).__name__} has no such module")
    # Low-rank updates of one of two tied weights would be lost, or move the other, when the adapter is merged.
    if whole := [name for name in sorted(targets) if modules.get(name)] if isinstance(targets, set) else []:
        raise InputError(f"`lora_target_modules` names {whole[0]!r}; to train it, give `lora_modules_to_save: {whole}`")
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    config.ensure_weight_tying = bool(tied and any(modules[name.split(".")[-1]] for name in saved))
    if config.ensure_weight_tying:  # as its own constructor does
        config.modules_to_tie = config.target_modules_to_tie = None
    return config
