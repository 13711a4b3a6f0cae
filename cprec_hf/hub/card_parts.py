"""What all cards share: how one is put together, its free section, licences, and names without local paths.

A card is front matter, a body that was generated from recorded facts, and last the free section: what a person wrote
there survives when the rest is generated anew. It stands last because nothing that comes after can be swallowed by a
code fence or a tag left open in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from cprec_hf.hub.markdown import Safe, front_matter, number, one_line

FREE_BEGIN = "<!-- free section: what stands between these two comments survives the next push -->"
FREE_END = "<!-- end of the free section -->"
# Identifiers the Hub knows that sources of behaviour and models carry; any other licence is `other` with its name.
LICENCES = (
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "odc-by", "odbl", "gpl-3.0", "unknown",
)  # fmt: skip
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def put_together(metadata: Mapping[str, Any], body: str, free: str) -> str:
    """A whole card.

    Args:
        metadata: of the front matter.
        body: Markdown that was generated.
        free: what a person wrote, as `free_section` reads it: kept as it is, less lines that are one of the markers.
    """
    # A marker in the body could only stand in a code block, where text is not escaped: it would move the free section.
    generated = _lines(front_matter(metadata) + body)
    generated = [f"{line[:-3]} ->" if line.rstrip() in (FREE_BEGIN, FREE_END) else line for line in generated]
    written = _trimmed([line for line in _lines(free) if line.rstrip() not in (FREE_BEGIN, FREE_END)])
    between = ["", *written, ""] if written else [""]
    return "\n".join([*_trimmed(generated), "", FREE_BEGIN, *between, FREE_END, ""])


def free_section(card: str) -> str:
    """What a person wrote in the free section of a card, without blank lines around it; empty if there is none.

    If the closing comment was removed, all after the opening one is theirs.
    """
    lines = _lines(card)
    begins = [i for i, line in enumerate(lines) if line.rstrip() == FREE_BEGIN]
    ends = [i for i, line in enumerate(lines) if line.rstrip() == FREE_END]
    if not begins:
        return ""
    inside = lines[begins[0] + 1 : ends[-1] if ends and ends[-1] > begins[0] else None]
    return "\n".join(_trimmed(inside))


def licence_metadata(licence: str) -> dict[str, str]:
    """The front matter's keys for a licence given in words or as an identifier."""
    words = one_line(licence).lower()
    known = re.sub(r"\s*\(.*\)$", "", words).replace(" ", "-")  # "Apache-2.0 (simulated, no real users)"
    if known in LICENCES:
        return {"license": known}
    known = words.replace(" ", "-")
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")[:60] or "see-below"}


def literal(text: str) -> Safe:
    """A string as it stands in a line of Python, within a code block."""
    return Safe(json.dumps(text, ensure_ascii=not text.isprintable()))


def is_repo_id(name: Any) -> TypeGuard[str]:
    """`user/name` that the Hub would take and that is no folder here."""
    return isinstance(name, str) and bool(_REPO_ID.fullmatch(name)) and ".." not in name and not Path(name).exists()


def repo_of(name: str) -> str | None:
    """The repo id in `user/name` or `user/name@branch`; None for anything else."""
    repo_id = name.partition("@")[0]
    return repo_id if is_repo_id(repo_id) else None


def place(name: str) -> str:
    """A repo id, with its branch, as it is; of a local path only its last part, which says nothing of the machine."""
    return name if repo_of(name) else last_part(name)


def last_part(path: str) -> str:
    """The last part of a path, with slashes of either kind."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def slug(text: str) -> str:
    """Words of a name for file names and identifiers: [a-z0-9-]."""
    return re.sub(r"[^a-z0-9]+", "-", one_line(text).lower()).strip("-")


def interval(row: Mapping[str, Any]) -> str:
    """The interval of a result with `low` and `high`; empty if it has none."""
    return f"{number(row['low'])} to {number(row['high'])}" if "low" in row and "high" in row else ""


def _lines(text: str) -> list[str]:
    """Lines as a file written and read again would have them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _trimmed(lines: list[str]) -> list[str]:
    """Without blank lines at either end."""
    filled = [i for i, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else []
