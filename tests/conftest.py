"""Shared fixtures: three kinds of small tokenizer and four kinds of tiny model. Nothing here reaches the network."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap

_HF_HOME = tempfile.TemporaryDirectory(prefix="cprec-tests-")  # removed when the session ends
os.environ |= {
    "CPREC_USER_KEY": "the tests' own key",
    "HF_HOME": _HF_HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples on every run, and no clock: a loaded machine is no failure.
settings.register_profile(
    "cprec", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("cprec")

SHARED = Path(__file__).parents[2] / "shared"
WORDS = [
    "red", "blue", "green", "dark", "light", "little", "big", "wooden", "steel", "cotton", "lamp", "chair", "table",
    "mug", "garden", "kitchen", "desk", "cable", "phone", "adapter", "brush", "paint", "paper", "canvas", "shampoo",
    "lotion", "cream", "soap", "tennis", "ball", "glove", "puzzle", "game", "doll", "robot", "printer", "ink",
    "folder", "stapler", "microscope", "beaker", "filter", "tubing", "sensor", "café", "Grüße", "猫", "the", "for",
    "with", "and", "of", "in", "set", "pack", "piece", "inch",
]  # fmt: skip
TEXTS = [f"{a} {b} for {c}, {i} pack!\n" for i, (a, b, c) in enumerate(zip(WORDS, WORDS[7:], WORDS[11:], strict=False))]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes stay out of the names of tests: what is compressed or random differs between the suite's processes."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tokenizer_texts() -> list[str]:
    """The lines that the tokenizers below were trained on."""
    return TEXTS


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> Any:
    """GPT-2's way: byte-level BPE behind GPT-2's own split, end-of-text as the only special token, no start ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, _byte_level_trainer(trainers, ["<|endoftext|>"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def llama3_style_tokenizer() -> Any:
    """Llama 3's way: byte-level BPE behind a split that keeps line breaks with punctuation; BOS before a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    backend.train_from_iterator(TEXTS, _byte_level_trainer(trainers, special))
    backend.post_processor = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[(special[0], 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[1], pad_token=special[1]
    )


@pytest.fixture(scope="session")
def sentencepiece_style_tokenizer() -> Any:
    """Llama 2's way: SentencePiece BPE with byte fallback, a dummy space before each text, and BOS."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        [text.strip() for text in TEXTS], trainers.BpeTrainer(vocab_size=200, show_progress=False)
    )
    special = ["<unk>", "<s>", "</s>"]
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = special + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    backend = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(vocabulary)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.add_special_tokens(special)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(params=["byte_level", "llama3_style", "sentencepiece_style"], scope="session")
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each of the three tokenizers in turn."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Any]:
    """`make_tiny_model(kind, tokenizer, **config)`: hidden 32, 2 layers, seeded, float32, in eval mode, on one thread.

    Kinds: "qwen3", "llama", "gpt_neo" (global and local attention, 256 positions), "mistral" (a sliding window of 8).
    """

    def make(kind: str, tokenizer: Any, *, seed: int = 0, **config: Any) -> Any:
        import torch
        import transformers

        torch.set_num_threads(1)
        ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids |= {"bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
        if kind == "gpt_neo":
            shape: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
            shape |= {"window_size": 8}
            shape |= {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256}
            made = transformers.GPTNeoConfig(**ids | shape | config)
        else:
            shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
            shape |= {"head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 512}
            shape |= {"tie_word_embeddings": True} | ({"sliding_window": 8} if kind == "mistral" else {})
            of_kind = {"qwen3": "Qwen3Config", "llama": "LlamaConfig", "mistral": "MistralConfig"}[kind]
            made = getattr(transformers, of_kind)(**ids | shape | config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """`tiny_model(tokenizer)`: the Qwen3-shaped one."""
    return lambda tokenizer, **config: make_tiny_model("qwen3", tokenizer, **config)


@pytest.fixture(scope="session")
def make_scripted_model(make_tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """`make_scripted_model(tokenizer, ids)`: writes `ids` after any prompt, since each token alone decides the next."""

    def make(tokenizer: Any, ids: Sequence[int]) -> Any:
        import torch

        from cprec_hf.corpus.encoder import Encoder

        assert len({*ids[:-1]}) == len(ids) - 1, "a token twice cannot be followed by two others"
        model = make_tiny_model("qwen3", tokenizer, tie_word_embeddings=False)
        newline = Encoder(tokenizer).segments(["a\n"]).row(0)[-1]
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight.zero_()
            for token, following in zip([newline, *ids[:-1]], ids, strict=True):
                head[int(following)] += embedding[int(token)] / embedding[int(token)].norm()
        return model

    return make


class HubMachine:
    """A loopback Hub, and processes that know it by their environment: the clients read the endpoint at import."""

    def __init__(self, hub: Any, home: Path) -> None:
        self.hub, self.home = hub, home

    def push(self, folder: Path, name: str, repo_type: str = "model") -> tuple[str, str]:
        """Push a folder; returns the repo id and the commit."""
        from huggingface_hub import HfApi

        api, repo = HfApi(endpoint=self.hub.url, token=self.hub.token), f"{self.hub.user}/{name}"
        api.create_repo(repo, repo_type=repo_type, exist_ok=True)
        return repo, api.upload_folder(repo_id=repo, folder_path=folder, repo_type=repo_type).oid

    def run(self, code: str, *args: object) -> Any:
        """Run code in a fresh process with a cache of its own; returns the JSON it printed last."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            env=os.environ | self.hub.env | {"HF_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hub_machine(tmp_path: Path) -> Iterator[HubMachine]:
    """A Hub with one user."""
    from cprec_hf.hub.loopback import LoopbackHub

    with LoopbackHub(tmp_path / "hub") as hub:
        yield HubMachine(hub, tmp_path / "home")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights; a test that asks for it is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data and weights at {SHARED}")
    return SHARED


def _byte_level_trainer(trainers: Any, special: list[str]) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel

    return trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
