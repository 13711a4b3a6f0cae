"""The transformers pipeline: `pipeline("next-item-recommendation", model="user/model")(["item-7", "item-3"], top_k=5)`.

Registered on `import cprec_hf.ranking`; until then transformers does not know the task. Repos hold no code of ours, so
loading one needs no `trust_remote_code`.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder
from cprec_hf.hub.cards import render_model_card
from cprec_hf.hub.files import local_path
from cprec_hf.hub.kinds import plan_recommender
from cprec_hf.hub.publish import CARD, publish
from cprec_hf.hub.published import relocated_record
from cprec_hf.ranking.catalogue import ITEMS_FILE, read_items
from cprec_hf.ranking.recommender import Recommendation, Recommender

TASK = "next-item-recommendation"
_NO_MATTER = (
    "revision",
    "dtype",
    "_from_pipeline",
    "code_revision",
    "trust_remote_code",
)  # the last two: no code is run


@dataclass(frozen=True)
class _ToLoad:
    """Stands for a model until `RecommendationPipeline` loads it, in the way that a `Recommender` is loaded.

    transformers would try again without safetensors where that fails, read an adapter's base at its newest commit, and
    bury an `InputError` in tracebacks.
    """

    repo: str
    revision: str | None
    options: dict[str, Any]

    @classmethod
    def from_pretrained(cls, repo: str, **options: Any) -> _ToLoad:
        """Note what is to be loaded."""
        revision = options.get("revision")
        given = {key: value for key, value in options.items() if key not in _NO_MATTER and value not in (None, False)}
        if options.get("dtype") not in (None, "auto"):
            given["dtype"] = options["dtype"]
        # Resolved by transformers; of an adapter, against its base. What the user asked for is resolved anew.
        return cls(repo, getattr(revision, "initial", revision), given)

    def load(self, device: int | str | torch.device | None) -> Recommender:
        """The recommender, on the device as `pipeline` takes it."""
        options = dict(self.options)
        dtype = options.pop("dtype", None)
        if options:
            raise InputError(
                f"{self.repo}: the pipeline does not load models with `{next(iter(options))}`; a token is set as "
                "HF_TOKEN; for anything else load model and tokenizer yourself and use Recommender(...)"
            )
        if isinstance(device, int):
            device = f"cuda:{device}" if device >= 0 and torch.cuda.is_available() else "cpu"
        recommender = Recommender.from_pretrained(self.repo, self.revision, None if device is None else str(device))
        if dtype is not None:
            recommender.model.to(dtype)
        return recommender


class RecommendationPipeline(Pipeline):
    """Histories in, recommended items out. All histories of a call are scored together; `batch_size` is ours to choose.

    Call it with the item ids of one history, oldest first, or with a list of histories. Keywords are those of
    `Recommender.recommend`, with `top_k` (10 by default) for `k`, here or when the pipeline is made.

    Made by `transformers.pipeline` from a folder or repo, with `revision`, `device` and `dtype` if wanted; or from a
    model that is loaded already, with its tokenizer (record and items are then read where the model came from).

    Returns:
        For one history a list of `{"item_id", "title", "score"}`, best first; for a list of histories a list of those.

    Raises:
        InputError: no record or items beside the model, weights that are missing or damaged, an unknown item or
            domain, ... as `Recommender` says.
    """

    # `Recommender` loads the tokenizer with the model.
    _load_tokenizer = _load_processor = _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, model: Any, tokenizer: Any = None, device: Any = None, **kwargs: Any) -> None:
        if isinstance(model, _ToLoad):
            if tokenizer is not None:
                raise InputError(f"{model.repo}: the tokenizer comes with the model; leave `tokenizer` out")
            self.recommender = model.load(device)
            device = self.recommender.model.device
        else:
            if tokenizer is None:
                raise InputError("a model that is loaded already needs its `tokenizer` beside it")
            where = model.name_or_path
            items = read_items(local_path(where, ITEMS_FILE))
            self.recommender = Recommender(model, tokenizer, ModelRecord.load(where), items)
        super().__init__(self.recommender.model, tokenizer=self.recommender.tokenizer, device=device, **kwargs)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Recommend for one history or for a list of histories; see the class."""
        _, forward, _ = self._sanitize_parameters(**kwargs)
        return self.run_single(inputs, {}, {**self._forward_params, **forward}, {})

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:  # type: ignore[override]
        """Save what `pipeline` and `Recommender.from_pretrained` read back, and a card; whole or not at all.

        Unlike the base class it copies no code and names no `custom_pipelines`, which would make loading demand
        `trust_remote_code`.

        Raises:
            InputError: the folder exists and is not empty.
        """
        folder = Path(save_directory)
        record = relocated_record(dataclasses.asdict(self.recommender.record))
        with atomic_folder(folder) as temporary:
            self.recommender.save_pretrained(temporary)
            facts = {
                "record": record,
                "model_name": folder.resolve().name,
                "adapter": (temporary / "adapter_config.json").is_file(),
                "hardware": record["hardware"],
            }
            (temporary / CARD).write_text(render_model_card(facts), encoding="utf-8")

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool = True,
        revision: str = "main",
        token: str | None = None,
    ) -> str:
        """Publish what `save_pretrained` writes, as `cprec hub push recommender` does: the branch holds exactly that.

        Args:
            repo_id: `user/name`, or `name` under the token's user.
            commit_message: title of the one commit.
            private: whether a new repo is private. A repo that exists keeps its visibility.
            revision: the branch; it is made if it is new.
            token: in place of the environment's.

        Returns:
            The URL of the commit.

        Raises:
            InputError: as `hub.publish.publish`; a public push of a source that may not be published again; an adapter
                of a base that was not pushed.
        """
        with tempfile.TemporaryDirectory(prefix="cprec-") as parent:
            folder = Path(parent) / repo_id.split("/")[-1]
            self.save_pretrained(folder)
            push = plan_recommender(folder, repo_id, branch=revision, private=private)
            if commit_message is not None:
                push = dataclasses.replace(push, message=commit_message)
            return publish(push, HfApi(token=token)).url

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
        PIPELINE_REGISTRY.register_pipeline(TASK, RecommendationPipeline, pt_model=_ToLoad, type="text")
