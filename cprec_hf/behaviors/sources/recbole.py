"""RecBole's atomic files: NAME/NAME.inter and NAME/NAME.item, tab-separated, with typed headers (`user_id:token`).

    source:
      kind: recbole
      folder: ${MY_DATA}/ml-100k
      domain: Movies
      licence: research only
      citation: Harper and Konstan, 2015

Format: https://recbole.io/atomic_files.html. Quotes are plain characters in it; a
`token_seq` is its text, spaces included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cprec_hf.behaviors.schema import INTERACTIONS, ITEMS, About, Behaviors
from cprec_hf.behaviors.sources.files import SourceFile, Table, columns_of, find_files, require_columns
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.timestamps import Unit
from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys


@dataclass(frozen=True)
class RecboleConfig:
    """The keys of a source of kind `recbole`."""

    folder: str
    """The folder that holds one `.inter` and one `.item` file; `${VARIABLE}` is expanded, hf:// paths are read."""
    domain: str
    """The domain of all its rows: the format has none."""
    licence: str
    """Its licence, in words or as an SPDX identifier."""
    citation: str
    """Whom to cite."""
    name: str | None = None
    """What the source calls itself; by default the name of its `.inter` file."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our name -> the files' name without its type; by default ours, and for `title` the only one ending in `title`."""
    timestamp_unit: Unit = "s"
    """Unit of the times: s, ms, us, ns, or iso."""
    redistributable: bool = False
    """Whether texts made from this source may be published."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a mapped column the schema does not have."""
        check_keys(self.columns, {*INTERACTIONS, *ITEMS} - {"domain"}, "`columns`")

    def read(self, where: str) -> Behaviors:
        """Read the atomic files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing file or column, an unreadable file, and what `intake.take_in` finds.
        """
        inter, item = _only_file(self.folder, "inter", where), _only_file(self.folder, "item", where)
        return take_in(
            _table(inter, ["user_id", "item_id", "timestamp"], ["rating"], self, where),
            _table(item, ["item_id", "title"], [], self, where),
            About(self.name or inter.stem, self.licence, self.citation, "time", self.redistributable),
            unit=self.timestamp_unit,
        )


def _only_file(folder: str, suffix: str, where: str) -> SourceFile:
    files = find_files(f"{folder}/*.{suffix}", where)
    if len(files) > 1:
        raise InputError(f"{where}: {folder} holds {len(files)} .{suffix} files; one is expected")
    return files[0]


def _table(path: SourceFile, required: list[str], optional: list[str], config: RecboleConfig, where: str) -> Table:
    typed = {column.split(":")[0]: column for column in columns_of(path)}
    wanted = {name: config.columns.get(name, name) for name in required}
    titles = [name for name in typed if name.endswith("title")]
    if "title" in wanted and "title" not in config.columns and "title" not in typed and len(titles) == 1:
        wanted["title"] = titles[0]
    wanted |= {name: config.columns.get(name, name) for name in optional if name in config.columns or name in typed}
    require_columns(path, list(typed), wanted, where)
    columns = {name: typed[raw] for name, raw in wanted.items()}
    if "title" in wanted:  # the items' attributes, under their names without types
        columns |= {name: raw for name, raw in typed.items() if raw not in columns.values() and name not in columns}
    return Table((path,), columns, {"domain": config.domain})
