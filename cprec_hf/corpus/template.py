"""The prompt template: one surface for CPT documents, zero-shot prompts, SFT rows and serving.

A behaviour document is a header line and one line per item, oldest first; a prompt is such a document without its last
line, and the completion is that line. So a model that was only ever trained on documents can rank at once. Everything
is made of lines that end with `DELIMITER`, which no cleaned title contains. The paper asks for one purely textual
template for all domains and does not print it; the wording is our choice, and any change of it is a new version.

    >>> print(load_template("1").prompt("Books", ["Dune", "Emma"]), end="")
    A user's history in Books, oldest first:
    Dune
    Emma
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cprec_hf.errors import InputError

TEMPLATE_VERSION = "1"
DELIMITER = "\n"


@dataclass(frozen=True)
class Template:
    """The wording of one template version. Titles are handed in cleaned and cut; every method is a pure function."""

    version: str = TEMPLATE_VERSION

    def header(self, domain: str | None) -> str:
        """The first line of a history in `domain`, or, with `None`, across all domains, delimiter included.

        Raises:
            InputError: the domain's name holds the delimiter, so the header would be read as two lines.
        """
        place = "across all domains" if domain is None else f"in {_one_line(domain)}"
        return f"A user's history {place}, oldest first:{DELIMITER}"

    def line(self, title: str) -> str:
        """One item's line: its title and the delimiter. The completion of an SFT row is the target's line."""
        return title + DELIMITER

    def prompt(self, domain: str | None, titles: Sequence[str], candidates: Sequence[str] | None = None) -> str:
        """A history as text: the header and the titles' lines, oldest first.

        Args:
            domain: the domain of the history, `None` for all domains mixed.
            titles: the titles of the history, oldest first; may be empty.
            candidates: titles to choose among. Their block stands before the header, so that the rest still reads as
                a document of the corpus.
        """
        block = "" if candidates is None else self.block(candidates)
        return block + self.header(domain) + "".join(map(self.line, titles))

    def block(self, titles: Sequence[str]) -> str:
        """The list of candidates that stands before a header: a line that says so, and the titles' lines."""
        return self.line("Candidates:") + "".join(map(self.line, titles))

    def question(self) -> str:
        """The line behind a prompt that asks about one item, whose line follows it (a baseline's form: TALLRec's)."""
        return self.line("Does the user choose this next?")

    def answer(self, yes: bool) -> str:
        """The answer, on a line of its own."""
        return self.line("Yes" if yes else "No")

    def item_document(
        self, domain: str, title: str, description: str | None = None, category: str | None = None
    ) -> str:
        """What an item is, without any behaviour: the text a base model learns a domain's words from.

        The category's line belongs to version 1 as the description's does: a line that stands where a source has the
        attribute. A document without it is what it always was, and no prompt or history has either.
        """
        opening = self.line(f"An item in {_one_line(domain)}:") + self.line(title)
        return opening + (self.category(category) if category else "") + (self.line(description) if description else "")

    def category(self, category: str) -> str:
        """The line of an item document that says what sort of thing it is."""
        return self.line(f"Category: {category}")


def load_template(version: str) -> Template:
    """The template of that version, as `cprec.json` and `cprec-corpus.json` name it.

    Raises:
        InputError: this release does not know the version.
    """
    if version != TEMPLATE_VERSION:
        raise InputError(
            f"template version {version!r} is unknown to this release of cprec_hf, which knows {TEMPLATE_VERSION!r}; "
            "install the release that made the corpus or the model"
        )
    return Template(version)


def _one_line(domain: str) -> str:
    if DELIMITER in domain:
        raise InputError(f"domain {domain!r} holds the template's delimiter {DELIMITER!r}; rename the domain")
    return domain
