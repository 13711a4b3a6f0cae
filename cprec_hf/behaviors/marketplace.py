"""A simulated marketplace whose true next-item distribution is known.

Users have tastes (two favourite themes, a style, a kind of thing per domain) that hold in every domain and drift
slowly; items carry the same attributes in the words of their titles. So what is learnt of people in some domains can
help in another one: the mechanism CPRec (arXiv 2504.08949) rests on can act here, and how far it carries can be held
against the best any method could do (`marketplace_oracle`). The world is our choice; nothing of it is from the paper.

At each event of a user in a domain, item i is bought with probability proportional to exp of
    theme_taste [theme(i) is a favourite] + style_taste [style(i) is the user's] + noun_taste [noun(i) is the user's]
  + transition [theme(i) follows the theme bought last] + popularity(i) + novelty 2^-(age of i in epochs),
over the items of the domain the user has not bought yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from cprec_hf.behaviors import marketplace_words as words
from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.errors import InputError

PAIRS = np.array(list(itertools.combinations(range(words.N_THEMES), 2)))
N_EPOCHS = 8
START = 1_600_000_000
SPAN = 365 * 86_400
USERS_PER_CHUNK = 10_000


@dataclass(frozen=True)
class MarketplaceConfig:
    """The world's sizes and its users' tastes, in units of log-odds. Defaults: our choice, see docs/method.md."""

    seed: int = 0
    domains: list[str] = field(default_factory=lambda: ["Books", "Games", "Grocery", "Movies", "Home"])
    """Domains whose users act in all of them."""
    unseen: list[str] = field(default_factory=lambda: ["Music"])
    """Domains with users of their own, who act nowhere else."""
    users: int = 2_000
    events_per_user: int = 40
    unseen_users: int = 1_500
    unseen_events_per_user: int = 10
    items_per_domain: int = 600
    theme_taste: float = 4.0
    style_taste: float = 3.0
    noun_taste: float = 2.5
    transition: float = 2.0
    popularity: float = 0.6
    novelty: float = 0.5
    drift: float = 0.03
    """Probability per event that a taste is drawn anew, for each taste by itself."""
    second_platform: list[str] = field(default_factory=list)
    """Domains of another platform: their titles have another form and other words (`marketplace_words`)."""
    categories: bool = False
    """Whether items say their noun as their category too."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a world that cannot be built."""
        names = [*self.domains, *self.unseen]
        if unknown := [name for name in names if name not in words.NOUNS]:
            raise InputError(f"the marketplace has no domain {unknown[0]!r}; choose among {', '.join(words.NOUNS)}")
        if strange := [name for name in self.second_platform if name not in names]:
            raise InputError(f"`second_platform` names {strange[0]!r}, which is no domain of it: {', '.join(names)}")
        if len(set(names)) != len(names) or not names:
            raise InputError(f"the marketplace's domains are {', '.join(names) or 'none'}; name one or more, each once")
        sizes = ("users", "events_per_user", "unseen_users", "unseen_events_per_user", "items_per_domain")
        for key, least in {"seed": 0, **dict.fromkeys(sizes, 1)}.items():
            if getattr(self, key) < least:
                raise InputError(f"`{key}` is {getattr(self, key)}; give at least {least}")
        if not 0 <= self.drift <= 1:
            raise InputError(f"`drift` is {self.drift}; it is a probability, from 0 to 1")
        longest = max(self.unseen_events_per_user, self.events_per_user if self.domains else 0)
        if longest * 4 > self.items_per_domain:
            raise InputError(
                f"items_per_domain is {self.items_per_domain} and users buy up to {longest} different ones; "
                f"give at least {4 * longest} items"
            )

    def read(self, where: str) -> Behaviors:
        """The world's logs: what makes the marketplace a source like the others (`sources.Source`)."""
        return simulate(self)


@dataclass(frozen=True)
class Domain:
    """A domain's items as arrays [items]: attributes, popularity, release epoch, and their sums by attribute cell."""

    name: str
    theme: np.ndarray
    style: np.ndarray
    noun: np.ndarray
    popularity: np.ndarray
    release: np.ndarray
    titles: np.ndarray
    descriptions: np.ndarray
    novelty: float

    @property
    def item_ids(self) -> np.ndarray:
        """Item ids [items], such as `music-17`."""
        return np.char.add(f"{self.name.lower()}-", np.arange(len(self.theme)).astype(str))

    @property
    def cell(self) -> np.ndarray:
        """The attribute cell of each item [items], theme-major."""
        return (self.theme * words.N_STYLES + self.style) * words.N_NOUNS + self.noun

    def weights(self) -> np.ndarray:
        """Taste-free weight exp(popularity + novelty) of each item in each epoch. Shape: [epochs, items]."""
        age = np.arange(N_EPOCHS)[:, None] - self.release[None, :]
        return np.exp(self.popularity + np.where(age >= 0, self.novelty * 0.5 ** np.maximum(age, 0), 0.0))


class Marketplace:
    """The world of one `MarketplaceConfig`: its catalogue, its events, and the tastes behind them."""

    def __init__(self, config: MarketplaceConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        order = rng.permutation(words.N_THEMES)  # one cycle through all themes, so no theme follows itself
        self.successor = np.empty(words.N_THEMES, dtype=np.int64)
        self.successor[order] = np.roll(order, -1)
        self.domains = [self._make_domain(i, name) for i, name in enumerate([*config.domains, *config.unseen])]

    def _make_domain(self, index: int, name: str) -> Domain:
        c, rng = self.config, np.random.default_rng([self.config.seed, 1, index])
        n = c.items_per_domain
        theme, style = rng.integers(0, words.N_THEMES, n), rng.integers(0, words.N_STYLES, n)
        noun = rng.integers(0, words.N_NOUNS, n)
        titles, descriptions = words.write_titles(
            name, index, theme, style, noun, rng, second=name in c.second_platform
        )
        popularity, release = rng.normal(0, c.popularity, n), rng.integers(-N_EPOCHS, N_EPOCHS, n)
        return Domain(name, theme, style, noun, popularity, release, titles, descriptions, c.novelty)

    def items(self) -> pl.DataFrame:
        """The catalogue: item_id, domain, title, description, and with `categories` the category."""
        attributes = ["category"] if self.config.categories else []
        return pl.concat(
            pl.DataFrame(
                {
                    "item_id": d.item_ids, "title": d.titles, "description": d.descriptions,
                    "category": np.array(words.NOUNS[d.name].split())[d.noun],
                }
            ).with_columns(pl.lit(d.name).alias("domain"))
            for d in self.domains
        ).select("item_id", "domain", "title", "description", *attributes)  # fmt: skip

    def event_chunks(self, unseen: str | None = None) -> Iterator[pl.DataFrame]:
        """Events of `USERS_PER_CHUNK` users at a time, with the tastes behind each.

        Args:
            unseen: one of the unseen domains, for its users alone.

        Columns: user_id, item_id, domain, timestamp, and the latent columns pair, style, noun, last_theme.
        A chunk depends on the config and its own index only.
        """
        c = self.config
        n_seen = len(c.domains)
        groups = [("u", c.users, c.events_per_user, list(range(n_seen)))] if n_seen else []
        for i, name in enumerate(c.unseen):
            groups.append((f"{name.lower()}-u", c.unseen_users, c.unseen_events_per_user, [n_seen + i]))
        for g, (prefix, users, steps, domains) in enumerate(groups):
            if unseen is not None and domains != [n_seen + c.unseen.index(unseen)]:
                continue
            for first in range(0, users, USERS_PER_CHUNK):
                n = min(USERS_PER_CHUNK, users - first)
                rng = np.random.default_rng([c.seed, 2, g, first])
                yield self._simulate(np.char.add(prefix, np.arange(first, first + n).astype(str)), steps, domains, rng)

    def _simulate(self, users: np.ndarray, steps: int, domains: list[int], rng: np.random.Generator) -> pl.DataFrame:
        """Run `steps` events of each user. All users step together; a loop runs over steps, never over users."""
        c, n = self.config, len(users)
        pair, style = rng.integers(0, len(PAIRS), n), rng.integers(0, words.N_STYLES, n)
        noun = rng.integers(0, words.N_NOUNS, (n, len(self.domains)))
        last = np.full(n, -1)
        # Each user is active over the whole year; waits are at least a second, so no two events of a user tie.
        gaps = rng.exponential(1.0, (n, steps + 1)).cumsum(axis=1)
        times = START + (gaps[:, :-1] / gaps[:, -1:] * (SPAN - 2 * steps)).astype(np.int64) + np.arange(steps)
        epochs = np.minimum((times - START) * N_EPOCHS // SPAN, N_EPOCHS - 1)
        where = np.array(domains)[rng.integers(0, len(domains), (n, steps))]
        bought = np.full((n, steps), -1, dtype=np.int64)  # domain * items + item
        latent = np.empty((n, steps, 4), dtype=np.int16)
        for t in range(steps):
            if t:
                pair = np.where(rng.random(n) < c.drift, rng.integers(0, len(PAIRS), n), pair)
                style = np.where(rng.random(n) < c.drift, rng.integers(0, words.N_STYLES, n), style)
                redraw = rng.random(noun.shape) < c.drift
                noun = np.where(redraw, rng.integers(0, words.N_NOUNS, noun.shape), noun)
            for d in domains:
                rows = np.flatnonzero(where[:, t] == d)
                mine = noun[rows, d]
                item = self._draw(d, pair[rows], style[rows], mine, last[rows], epochs[rows, t], bought[rows, :t], rng)
                latent[rows, t] = np.stack([pair[rows], style[rows], mine, last[rows]], axis=1)
                bought[rows, t] = d * c.items_per_domain + item
            domain_of, item_of = np.divmod(bought[:, t], c.items_per_domain)
            last = np.stack([self.domains[d].theme for d in range(len(self.domains))])[domain_of, item_of]
        flat = bought.ravel()
        ids = np.concatenate([d.item_ids for d in self.domains])
        names = np.array([d.name for d in self.domains])
        frame = {
            "user_id": np.repeat(users, steps), "item_id": ids[flat], "domain": names[flat // c.items_per_domain],
            "timestamp": times.ravel(),
        }  # fmt: skip
        frame |= {key: latent[:, :, i].ravel() for i, key in enumerate(("pair", "style", "noun", "last_theme"))}
        return pl.DataFrame(frame)

    def theme_logits(self) -> np.ndarray:
        """Log-odds of a theme, by favourite pair and the theme bought last (-1: none). Shape: [pairs, last, themes]."""
        c = self.config
        logits = np.zeros((len(PAIRS), words.N_THEMES + 1, words.N_THEMES))
        logits[np.arange(len(PAIRS))[:, None], :, PAIRS] += c.theme_taste
        logits[:, np.arange(words.N_THEMES), self.successor] += c.transition
        return logits

    def _draw(
        self, d: int, pair: np.ndarray, style: np.ndarray, noun: np.ndarray, last: np.ndarray,
        epoch: np.ndarray, bought: np.ndarray, rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """One item index per row, by rejection: draw from the whole domain until the item is new to the user."""
        c, domain = self.config, self.domains[d]
        by_cell = np.argsort(domain.cell, kind="stable")
        weights = domain.weights()[:, by_cell]
        n_cells = words.N_THEMES * words.N_STYLES * words.N_NOUNS
        bounds = np.searchsorted(domain.cell[by_cell], np.arange(n_cells + 1))
        running = np.concatenate([np.zeros((N_EPOCHS, 1)), weights.cumsum(axis=1)], axis=1)
        mass = running[:, bounds[1:]] - running[:, bounds[:-1]]
        theme = np.exp(self.theme_logits())[pair, last]
        styles = np.exp(c.style_taste * np.eye(words.N_STYLES))[style]
        nouns = np.exp(c.noun_taste * np.eye(words.N_NOUNS))[noun]
        cells = theme[:, :, None, None] * styles[:, None, :, None] * nouns[:, None, None, :]
        cells = cells.reshape(len(pair), n_cells)
        cells *= mass[epoch]
        cells = cells.cumsum(axis=1)
        item = np.empty(len(pair), dtype=np.int64)
        open_rows = np.arange(len(pair))
        while len(open_rows):
            u = rng.random(len(open_rows)) * cells[open_rows, -1]
            cell = (cells[open_rows] <= u[:, None]).sum(axis=1)
            e = epoch[open_rows]
            inside = running[e, bounds[cell]] + rng.random(len(open_rows)) * mass[e, cell]
            spot = (running[e] <= inside[:, None]).sum(axis=1) - 1
            item[open_rows] = by_cell[np.clip(spot, bounds[cell], bounds[cell + 1] - 1)]
            again = (bought[open_rows] == (d * c.items_per_domain + item[open_rows])[:, None]).any(axis=1)
            open_rows = open_rows[again]
        return item

    def simulate(self) -> Behaviors:
        """The world's logs as `Behaviors`: what a method may see."""
        events = pl.concat(self.event_chunks()).select("user_id", "item_id", "domain", "timestamp")
        interactions = events.with_columns(pl.lit(None, dtype=pl.Float32).alias("rating"))
        account = Account()
        account.add("simulated marketplace", len(interactions), len(interactions), {})
        about = About(
            name=f"simulated marketplace, seed {self.config.seed}", licence="Apache-2.0 (simulated, no real users)",
            citation="cprec_hf.behaviors.marketplace", order="time", redistributable=True,
        )  # fmt: skip
        return Behaviors(interactions.lazy(), self.items().lazy(), about, account)


def simulate(config: MarketplaceConfig) -> Behaviors:
    """Simulate the logs of a marketplace (see the module's docstring)."""
    return Marketplace(config).simulate()
