"""Secrets are found before they leave: tokens and keys in the files of a push, by the patterns their issuers gave them.

Text is searched as bytes, safetensors in the header, Parquet through its columns of text, however nested (its pages are
compressed), and through what it says of itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_PATTERNS = {  # what it is -> a regular expression that Python's `re` and Arrow's RE2 read alike
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a Weights & Biases key": r"(?i:wandb_api_key)\W{1,4}[0-9a-f]{40}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_OURS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "CPREC_USER_KEY")
_SKIPPED = (".pt", ".pth", ".bin")  # tensors of a resume state
_CHUNK, _OVERLAP = 8 * 1024 * 1024, 4096


def refuse_secrets(files: Mapping[str, Path | bytes]) -> None:
    """Raise `InputError` if a token or key stands in a file; the message names the file and the kind, never the secret.

    Args:
        files: path in the repo -> local file or content. The values of this process' own secrets (`HF_TOKEN`, the
            pseudonym key, ...) are looked for as well.
    """
    from huggingface_hub import get_token

    own = {os.environ.get(name) for name in _OURS} | {get_token()}
    known = {value for value in own if value and len(value) >= 8}
    patterns = {what: re.compile(pattern.encode()) for what, pattern in _PATTERNS.items()}
    if known:
        patterns["a token or key of this process"] = re.compile("|".join(map(re.escape, sorted(known))).encode())
    for name, source in files.items():
        suffix = Path(name).suffix.lower()
        if suffix in _SKIPPED:
            continue
        if suffix == ".parquet" and isinstance(source, Path):
            found = _in_parquet(source, patterns)
        else:
            found = _in_bytes(_chunks(source, header_only=suffix == ".safetensors"), patterns)
        if found:
            raise InputError(f"{name}: {found}; take it out (and revoke it if it was ever shared), then push again")


def _in_bytes(chunks: Iterator[bytes], patterns: Mapping[str, re.Pattern[bytes]]) -> str:
    """What stands where, or "". Chunks overlap, so that nothing is missed between two."""
    line, tail = 1, b""
    for chunk in chunks:
        text = tail + chunk
        for what, pattern in patterns.items():
            if match := pattern.search(text):
                lines = text.count(b"\n", 0, match.start())
                return f"{what} in line {line + lines}"
        tail = text[-_OVERLAP:]
        line += text.count(b"\n", 0, len(text) - len(tail))
    return ""


def _in_parquet(path: Path, patterns: Mapping[str, re.Pattern[bytes]]) -> str:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    said = file.schema_arrow.serialize().to_pybytes()  # all names and metadata as they are, among other bytes
    if found := _in_bytes(iter([said]), patterns):
        return f"{found.rpartition(' in line')[0]} in its schema or metadata"
    names = [field.name for field in file.schema_arrow if _holds_text(field.type)]
    for batch in file.iter_batches(columns=names):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for texts in _texts(column):
                for what, pattern in patterns.items():
                    if pc.any(pc.match_substring_regex(texts, pattern.pattern.decode())).as_py():
                        return f"{what} in column {name}"
    return ""


def _holds_text(kind: pa.DataType) -> bool:
    """Whether a type is of strings or bytes, or holds one that is."""
    import pyarrow.types as pt

    if pt.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if pt.is_nested(kind):
        return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))
    return any(known(kind) for known in (*_strings(), *_bytes()))


def _texts(column: pa.Array) -> Iterator[pa.Array]:
    """The strings and bytes of a column, out of whatever they are nested in."""
    import pyarrow as pa
    import pyarrow.types as pt

    kind = column.type
    if pt.is_dictionary(kind):
        yield from _texts(column.dictionary)
    elif pt.is_map(kind):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif pt.is_struct(kind):
        for field in column.flatten():
            yield from _texts(field)
    elif pt.is_nested(kind):  # lists of all sorts
        yield from _texts(column.flatten())
    elif any(known(kind) for known in _strings()):
        yield column.cast(pa.large_string())
    elif any(known(kind) for known in _bytes()):
        yield column.cast(pa.large_binary())


def _strings() -> tuple[Callable[[pa.DataType], bool], ...]:
    import pyarrow.types as pt

    return pt.is_string, pt.is_large_string, pt.is_string_view


def _bytes() -> tuple[Callable[[pa.DataType], bool], ...]:
    import pyarrow.types as pt

    return pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary


def _chunks(source: Path | bytes, *, header_only: bool) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        if header_only:  # eight bytes of length, then the header's JSON
            yield file.read(min(int.from_bytes(file.read(8), "little"), _CHUNK))
            return
        while chunk := file.read(_CHUNK):
            yield chunk
