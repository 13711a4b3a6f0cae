"""Readers: one per kind of public source, all ending in the same schema, chosen by `kind:` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys, from_mapping

if TYPE_CHECKING:
    from cprec_hf.behaviors.schema import Behaviors

KINDS = ("marketplace", "recbole", "table")


def read_source(mapping: Mapping[str, Any], where: str) -> Behaviors:
    """Read the source a recipe describes.

    Args:
        mapping: `kind`, one of `KINDS`, and the keys of that kind's config: `table.TableConfig`,
            `recbole.RecboleConfig` or `cprec_hf.behaviors.marketplace.MarketplaceConfig`.
        where: what to call the recipe in error messages, e.g. "recipes/tiny/corpus.yaml: `source`".

    Raises:
        InputError: unknown kind or key (with the nearest valid one), missing key, or anything the reader refuses.
    """
    if "kind" not in mapping:
        raise InputError(f"{where}: missing key `kind`; choose one of {', '.join(KINDS)}")
    kind = str(mapping["kind"])
    check_keys([kind], KINDS, f"{where}: `kind`")
    rest = {key: value for key, value in mapping.items() if key != "kind"}
    if kind == "table":
        from cprec_hf.behaviors.sources.table import TableConfig, read_table

        return read_table(from_mapping(rest, TableConfig, where), where)
    if kind == "recbole":
        from cprec_hf.behaviors.sources.recbole import RecboleConfig, read_recbole

        return read_recbole(from_mapping(rest, RecboleConfig, where), where)
    from cprec_hf.behaviors.marketplace import MarketplaceConfig, simulate

    return simulate(from_mapping(rest, MarketplaceConfig, where))
