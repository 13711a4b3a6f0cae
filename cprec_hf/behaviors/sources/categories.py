"""Sources that publish a pair of files for each category: any number of categories at once, each one a domain."""

from __future__ import annotations

from dataclasses import dataclass

from cprec_hf.behaviors.sources.files import SourceFile, find_files
from cprec_hf.errors import InputError

PLACE = "{category}"


@dataclass(frozen=True)
class CategoryFiles:
    """The files of some categories.

    Attributes:
        paths: category by category, in the order given.
        domains: file -> the domain of its rows.
    """

    paths: tuple[SourceFile, ...]
    domains: dict[SourceFile, str]

    @classmethod
    def find(cls, pattern: str, categories: list[str] | dict[str, str], where: str) -> CategoryFiles:
        """Find the files of every category.

        Args:
            pattern: a path as `files.find_files` takes it, with `{category}` in it.
            categories: their names in the files' names; a mapping also says what to call each as a domain, by default
                its name with spaces for underscores.
            where: what to call the recipe in error messages.

        Raises:
            InputError: a pattern without `{category}`, no category, a domain named twice, or a category without a file.
        """
        if PLACE not in pattern:
            raise InputError(f"{where}: {pattern} does not say where the category's name stands; write {PLACE} there")
        if not categories:
            raise InputError(f"{where}: `categories` is empty; name at least one")
        named = categories if isinstance(categories, dict) else {name: name.replace("_", " ") for name in categories}
        if len({*named.values()}) < len(named) or len(named) < len(categories):
            raise InputError(f"{where}: `categories` names a domain twice: {', '.join(named.values())}")
        domains: dict[SourceFile, str] = {}
        for category, domain in named.items():
            domains |= dict.fromkeys(find_files(pattern.replace(PLACE, category), where), domain)
        return cls(tuple(domains), domains)
