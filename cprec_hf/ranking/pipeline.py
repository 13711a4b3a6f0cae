"""The transformers pipeline: `pipeline("cprec-recommendation", model="user/model")(["item-7", "item-3"], top_k=5)`.

Registered on `import cprec_hf.ranking`; until then transformers does not know the task.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.hub.files import local_path
from cprec_hf.ranking.catalogue import ITEMS_FILE, read_items
from cprec_hf.ranking.recommender import Recommendation, Recommender

TASK = "cprec-recommendation"


class _Model(AutoModelForCausalLM):
    """Loads safetensors only, and remembers where from: of an adapter, transformers keeps only the base's name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `AutoModelForCausalLM.from_pretrained`."""
        model: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs | {"use_safetensors": True})
        model.cprec_source = (pretrained_model_name_or_path, kwargs.get("revision"))
        return model


class RecommendationPipeline(Pipeline):
    """Histories in, recommended items out. All histories of a call are scored together; `batch_size` is ours to choose.

    Call it with the item ids of one history, oldest first, or with a list of histories. Keywords are those of
    `Recommender.recommend`, with `top_k` (10 by default) for `k`, here or when the pipeline is made.

    Returns:
        For one history a list of `{"item_id", "title", "score"}`, best first; for a list of histories a list of those.

    Raises:
        InputError: no record or items beside the model, an unknown item or domain, ... as `Recommender` says.
    """

    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        source, revision = getattr(model, "cprec_source", (model.name_or_path, None))
        record, items = ModelRecord.load(source, revision), read_items(local_path(source, ITEMS_FILE, revision))
        self.recommender = Recommender(self.model, self.tokenizer, record, items)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Recommend for one history or for a list of histories; see the class."""
        _, forward, _ = self._sanitize_parameters(**kwargs)
        return self.run_single(inputs, {}, {**self._forward_params, **forward}, {})

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save what `pipeline` and `Recommender.from_pretrained` read back.

        Unlike the base class it copies no code and names no `custom_pipelines`, which would make loading demand
        `trust_remote_code`.
        """
        self.recommender.save_pretrained(Path(save_directory))

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if "top_k" in kwargs:
            kwargs["k"] = kwargs.pop("top_k")
        return {}, kwargs, {}

    def preprocess(self, input_: Any, **_: Any) -> dict[str, Any]:
        """Whether this is one history or a list of them."""
        one = len(input_) > 0 and isinstance(input_[0], str)
        return {"histories": [input_] if one else input_, "one": one}

    def _forward(self, input_tensors: dict[str, Any], **kwargs: Any) -> Any:
        return {"found": self.recommender.recommend(input_tensors["histories"], **kwargs), "one": input_tensors["one"]}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> Any:
        """Plain dicts, as pipelines return."""
        found: list[list[Recommendation]] = model_outputs["found"]
        listed = [[vars(item) for item in items] for items in found]
        return listed[0] if model_outputs["one"] else listed


def register() -> None:
    """Make the task known to `transformers.pipeline`."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(TASK, RecommendationPipeline, pt_model=_Model, type="text")
