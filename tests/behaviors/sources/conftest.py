"""One small world, which the tests of the readers write in each published layout and expect back from each reader."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest

from cprec_hf.behaviors import Behaviors

DAY = 86_400
START = 17_500 * DAY  # 2017-11-30, midnight: a layout that holds dates alone can say it


@dataclass(frozen=True)
class World:
    """What every reader must give back, and the dirt that stands between the rows.

    Attributes:
        titles: item -> its title as it is published; item 4 has none, and rows of item 2 come twice.
        cleaned: item -> its title as it must come out.
        genres: item -> its genres.
        events: user, item, unix seconds, rating; the last three are dirt: a repeated row, an item without a title, and
            one that no catalogue has.
    """

    titles: ClassVar = {"1": "Toy Story &amp; co", "2": 'The "American" President, again', "3": "Café ½", "4": ""}
    cleaned: ClassVar = {"1": "Toy Story & co", "2": 'The "American" President, again', "3": "Café ½"}
    genres: ClassVar = {"1": ["Animation", "Comedy"], "2": ["Drama"], "3": [], "4": ["Drama"]}
    events = (
        ("10", "1", START, 5), ("10", "3", START + DAY, 4), ("10", "2", START + 3 * DAY, 3),
        ("20", "2", START, 2), ("20", "1", START + 2 * DAY, 1),
        ("20", "1", START + 2 * DAY, 1), ("20", "4", START + 4 * DAY, 5), ("10", "99", START + 5 * DAY, 5),
    )  # fmt: skip
    clean_events = events[:5]

    def histories(self) -> dict[str, list[str]]:
        """User -> items, oldest first, with the dirt a list of items can hold (a repeated row is none there)."""
        rows = sorted(self.clean_events + self.events[6:], key=lambda row: row[2])
        return {user: [item for u, item, *_ in rows if u == user] for user in ("10", "20")}

    def iso(self, seconds: int, style: str, hours: int = 0) -> str:
        """A time as text in a zone some hours from UTC."""
        return datetime.fromtimestamp(seconds, UTC).astimezone(timezone(timedelta(hours=hours))).strftime(style)

    def check(
        self, behaviors: Behaviors, domain: str, *, ratings: bool = False, categories: str | None = None, user: str = ""
    ) -> None:
        """Assert that `behaviors` is this world.

        Args:
            behaviors: what a reader gave; its contract is validated too.
            domain: the domain of all rows, or of the rows to look at.
            ratings: whether the layout holds ratings.
            categories: what stands between genres in `category`; null where the layout has no genres.
            user: what the reader writes before every user's id.
        """
        interactions = behaviors.validate().interactions.collect().filter(domain=domain)
        found = sorted(interactions.select("user_id", "item_id", "timestamp", "rating").rows())
        expected: list[tuple[Any, ...]] = [
            (user + u, i, t, float(r) if ratings else None) for u, i, t, r in self.clean_events
        ]
        if behaviors.about.order == "position":  # the order alone, within a user
            found = [(u, i, 0, r) for u, i, _, r in sorted(found, key=lambda row: (row[0], row[2]))]
            expected = [(u, i, 0, r) for u, i, _, r in sorted(expected, key=lambda row: (row[0], row[2]))]
            assert found == expected
        assert sorted(found) == sorted(expected)
        items = behaviors.items.collect().filter(domain=domain)
        assert dict(items.select("item_id", "title").rows()) == self.cleaned
        if categories is not None:
            wanted = {item: categories.join(self.genres[item]) or None for item in self.cleaned}
            assert {item: text or None for item, text in items.select("item_id", "category").rows()} == wanted


@pytest.fixture(scope="session")
def world() -> World:
    """The world."""
    return World()
