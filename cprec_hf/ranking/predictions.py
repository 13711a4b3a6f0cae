"""A folder of predictions: Parquet parts that are there whole or not at all, and `predict.json`, which says of what.

The folder can be gone on with after any interruption: a part that is missing is made, one that is there stays. What a
part did not use is counted in its own metadata, so that the sums in `predict.json` need no memory of the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.corpus.record import read_json
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file, require_writable

SUMMARY = "predict.json"
FORMAT = 1
PREDICTIONS = pa.schema(
    {
        "user_id": pa.string(),
        "item_ids": pa.list_(pa.string()),
        "titles": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
    }
)
"""A row a user: item_ids, titles and scores of equal length, best first."""

_ACCOUNT = b"cprec"
_PART = re.compile(r"part-(\d{5,})\.parquet")
_LEFT_OVER = re.compile(r"\.(part-\d{5,}\.parquet|predict\.json)\.[0-9a-f]{8}\.tmp")


class Predictions:
    """The folder.

    Args:
        folder: where it is, or is to be.
        about: `settings`, which decide the bytes; `rows` and `shard_users` of the input; anything else worth noting.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = Path(folder), dict(about)
        self.n_parts = -(-about["rows"] // about["settings"]["shard_users"])

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder, or check that what is there was made of the same; one process calls this, before any writes.

        Args:
            overwrite: whether what was made of something else, or the same, is to be removed.

        Raises:
            InputError: the folder was begun with other settings (the first that differs is named), or what `refuse`
                says.
        """
        refuse_other_files(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in self.folder.iterdir()]
        for name in names:
            if _LEFT_OVER.fullmatch(name):
                (self.folder / name).unlink()
        if SUMMARY in names and not overwrite:
            found = read_json(self.folder / SUMMARY, FORMAT)
            for key, before, now in _differences(found["settings"], self.about["settings"]):
                raise InputError(
                    f"{self.folder} was begun with `{key}` {before!r}, and now it is {now!r}; give another output "
                    "folder, the settings it was begun with, or --overwrite"
                )
            return
        if parts := [name for name in names if _PART.fullmatch(name)]:
            if not overwrite:
                raise InputError(f"{self.folder} holds parts without a {SUMMARY}; pass --overwrite to make them anew")
            for name in parts:  # before the new settings stand there, so that no old part can pass for a new one
                (self.folder / name).unlink()
        self._summarise(None)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet."""
        found = {int(match[1]) for path in self.folder.iterdir() if (match := _PART.fullmatch(path.name))}
        return [number for number in range(self.n_parts) if number not in found]

    def rows_done(self) -> int:
        """Rows of the input that the parts that are there were made of."""
        missing, size = self.missing(), self.about["settings"]["shard_users"]
        rest = self.about["rows"] - (self.n_parts - 1) * size  # of the last part
        return self.about["rows"] - len(missing) * size + (size - rest if self.n_parts - 1 in missing else 0)

    def write(self, number: int, part: pa.Table, account: Mapping[str, Any]) -> None:
        """Write a part.

        Args:
            number: of the part.
            part: rows as in `PREDICTIONS`.
            account: counts, maybe of counts: how its rows came from those of the input.
        """
        noted = part.replace_schema_metadata({_ACCOUNT: json.dumps(account).encode()})
        with atomic_file(self.folder / f"part-{number:05d}.parquet") as temporary:
            pq.write_table(noted, temporary, compression="zstd")

    def finish(self) -> dict[str, Any] | None:
        """Once all parts are there, write the sums of their accounts into `predict.json`, and return it.

        Every process may call this when it is through: the last one finds all parts, and any that do write the same.
        """
        if self.missing():
            return None
        total: dict[str, Any] = {}
        for number in range(self.n_parts):
            metadata = pq.read_metadata(self.folder / f"part-{number:05d}.parquet").metadata
            total = _sum(total, json.loads(metadata[_ACCOUNT]))
        return self._summarise(total)

    def _summarise(self, counts: dict[str, Any] | None) -> dict[str, Any]:
        summary = {"format": FORMAT, **self.about, "parts": self.n_parts, "counts": counts}
        with atomic_file(self.folder / SUMMARY) as temporary:
            temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return summary


def refuse_other_files(folder: str | Path) -> None:
    """Raise `InputError` if the folder cannot be written, or holds files that are not of predictions."""
    folder = Path(folder)
    require_writable(folder)
    ours = (re.escape(SUMMARY), _PART.pattern, _LEFT_OVER.pattern)
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if not any(re.fullmatch(pattern, path.name) for pattern in ours):
            raise InputError(f"{folder} holds {path.name}, which is no prediction; give another output folder")


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two settings differ: key, value before, value now."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The sums of two accounts, key by key."""
    return {
        key: _sum(one.get(key, {}), value) if isinstance(value, Mapping) else one.get(key, 0) + value
        for key, value in other.items()
    }
