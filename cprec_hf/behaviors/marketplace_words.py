"""The words of the simulated marketplace: themes and styles shared by all domains, nouns and brands of each domain.

Every latent attribute has two synonyms, so that a model must learn what words mean and cannot match strings.
"""

from __future__ import annotations

from itertools import product

import numpy as np

THEMES = (
    ("ocean", "seaside"), ("space", "cosmic"), ("forest", "woodland"), ("desert", "dune"), ("mountain", "alpine"),
    ("city", "urban"), ("dragon", "mythic"), ("robot", "android"), ("garden", "botanical"), ("winter", "frost"),
)  # fmt: skip
STYLES = (
    ("cosy", "snug"), ("modern", "sleek"), ("vintage", "retro"),
    ("playful", "whimsical"), ("dark", "gothic"), ("plain", "minimal"),
)  # fmt: skip
NOUNS = {
    "Books": "novel atlas memoir cookbook anthology diary thriller romance handbook biography fable poem",
    "Games": "puzzle quest racer arcade strategy shooter platformer simulator trivia chess cards adventure",
    "Grocery": "tea coffee biscuit honey chocolate pasta sauce cereal jam soup spice snack",
    "Movies": "drama comedy western musical documentary mystery heist saga short series sequel biopic",
    "Home": "lamp rug cushion vase mirror candle curtain shelf clock blanket basket tray",
    "Music": "album single ballad concerto remix playlist anthem symphony soundtrack lullaby mixtape opera",
    "Fashion": "jacket scarf dress boots hat gloves sweater belt coat socks skirt shirt",
    "Toys": "doll blocks kite train plush marbles yoyo drum figure wagon slime whistle",
}
TAILS = ("", "", "", "", "", "set", "for two", "in a gift box")
_FIRST = ("nor", "bel", "kar", "tel", "mor", "zan", "lum", "hel", "vor", "pin", "ral", "sto")
_SECOND = ("vik", "la", "dex", "mont", "ia", "ford")

N_THEMES, N_STYLES, N_NOUNS, N_BRANDS = len(THEMES), len(STYLES), 12, 12


def brands(domain_index: int) -> np.ndarray:
    """The 12 brand names of a domain, distinct across the first six domains. Shape: [12] of str."""
    names = np.array(["".join(pair).capitalize() for pair in product(_FIRST, _SECOND)])
    start = domain_index * N_BRANDS
    return np.roll(names.reshape(12, 6).T.ravel(), -start)[:N_BRANDS]


def write_titles(
    domain: str, domain_index: int, theme: np.ndarray, style: np.ndarray, noun: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Titles and descriptions for items with these attributes.

    Args:
        domain: one of `NOUNS`.
        domain_index: decides the brands.
        theme, style, noun: attribute indexes, each [items].
        rng: draws synonyms, brand, word order and tail.

    Returns:
        titles [items] of 3 to 9 words, each holding a word for every attribute; descriptions [items] that use the
        other synonym too. They say what the item is and nothing of who buys it.
    """
    n = len(theme)
    themes, styles = np.array(THEMES), np.array(STYLES)
    which_theme, which_style = rng.integers(0, 2, n), rng.integers(0, 2, n)
    theme_word, style_word = themes[theme, which_theme], styles[style, which_style]
    noun_word = np.array(NOUNS[domain].split())[noun]
    brand = brands(domain_index)[rng.integers(0, N_BRANDS, n)]
    tail = np.array(TAILS)[rng.integers(0, len(TAILS), n)]
    branded = rng.random(n) < 1 / 3

    def say(*words: str | np.ndarray) -> np.ndarray:
        text = np.full(n, "", dtype=object)
        for word in words:
            text = text + np.asarray(word, dtype=object) + " "
        return text

    by_brand = np.where(branded, say("by", brand), "")
    titles = say(style_word, theme_word, noun_word) + by_brand.astype(object) + tail.astype(object)
    other_theme, other_style = themes[theme, 1 - which_theme], styles[style, 1 - which_style]
    descriptions = say(noun_word, "with", theme_word, other_theme, "theme and", style_word, other_style, "look")
    strip = np.frompyfunc(str.strip, 1, 1)
    return strip(titles).astype(str), strip(descriptions).astype(str)
