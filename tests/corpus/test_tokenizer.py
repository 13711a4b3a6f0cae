"""The trained tokenizer: the same files each time, and the same ids beside whatever config a model brings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.tokenizer import train_tokenizer
from cprec_hf.errors import InputError

SAMPLES = ["red lamp for the kitchen!\n", "Ünseen wörds 12345 猫 don't\n", "a  b\n\n", "<|endoftext|> in text\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_tokenizer(tokenizer_texts, 400, folder)
    return folder


@pytest.mark.parametrize("config", ["Qwen3Config", "Qwen2Config", "LlamaConfig", "GPTNeoConfig", "MistralConfig"])
def test_comes_back_identical_beside_any_config(folder: Path, tmp_path: Path, config: str) -> None:
    import transformers

    trained = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    getattr(transformers, config)().save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == trained.get_vocab() and len(again) == len(trained)
    assert again(SAMPLES)["input_ids"] == trained(SAMPLES)["input_ids"]
    assert (again.eos_token_id, again.pad_token_id, again.bos_token_id) == (0, 1, None)
    ours, theirs = Encoder(trained), Encoder(again)
    assert theirs.segments(SAMPLES).values.tolist() == ours.segments(SAMPLES).values.tolist()
    assert [theirs.decode(theirs.segments([s]).row(0)) for s in SAMPLES] == SAMPLES


def test_learns_merges_up_to_the_size(folder: Path, tmp_path: Path, tokenizer_texts: list[str]) -> None:
    tokenizer: Any = train_tokenizer(tokenizer_texts, 300, tmp_path)
    assert len(tokenizer) == 300
    n_tokens = [len(Encoder(t).segments(tokenizer_texts).values) for t in (_load(folder), tokenizer)]
    assert n_tokens[0] < n_tokens[1] < sum(len(text.encode()) for text in tokenizer_texts)
    with pytest.raises(InputError, match=r"vocab_size is 257; .* at least 258"):
        train_tokenizer(tokenizer_texts, 257, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_same_texts_same_bytes_in_another_process(folder: Path, tmp_path: Path, tokenizer_texts: list[str]) -> None:
    code = (
        "import json, sys; from cprec_hf.corpus.tokenizer import train_tokenizer; "
        "train_tokenizer(json.load(sys.stdin), 400, sys.argv[1])"
    )
    env = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(
        command, input=json.dumps(tokenizer_texts), text=True, check=True, env=env, cwd=Path(__file__).parents[2]
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in folder.iterdir())
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
