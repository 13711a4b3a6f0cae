"""The words of the simulated marketplace: themes and styles shared by all domains, nouns and brands of each domain.

Every latent attribute has two synonyms, so that a model must learn what words mean and cannot match strings. A second
platform says the same attributes with two other words each, and writes its titles in another order; only descriptions
use words of both platforms, as a language does.
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
SECOND_THEMES = (
    ("maritime", "nautical"), ("galactic", "stellar"), ("sylvan", "timber"), ("arid", "sandy"), ("summit", "highland"),
    ("downtown", "metro"), ("legendary", "fabled"), ("cyber", "mechanic"), ("floral", "blossom"), ("snowy", "icy"),
)  # fmt: skip
SECOND_STYLES = (
    ("comfy", "homely"), ("futuristic", "trendy"), ("antique", "nostalgic"),
    ("cheerful", "silly"), ("gloomy", "sinister"), ("simple", "bare"),
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
    "Sports": "racket ball helmet skates dumbbell mat surfboard paddle bicycle goggles rope tent",
    "Tools": "hammer drill saw wrench pliers ladder chisel level sander clamp toolbox gauge",
    "Cartoons": "episode pilot parody trailer storyboard clip special finale crossover recap animation sketch",
    "Cooking": "curry noodles dumpling barbecue stew salad pancake roast sandwich hotpot dessert smoothie",
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
    domain: str, domain_index: int, theme: np.ndarray, style: np.ndarray, noun: np.ndarray, rng: np.random.Generator,
    *, second: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Titles and descriptions for items with these attributes.

    Args:
        domain: one of `NOUNS`.
        domain_index: decides the brands.
        theme, style, noun: attribute indexes, each [items].
        rng: draws synonyms, brand, word order and tail.
        second: whether the domain is of the second platform.

    Returns:
        titles [items] of 3 to 9 words, each holding a word for every attribute; descriptions [items] that use the
        other synonym too, on the second platform one of the first platform's. They say what the item is and nothing
        of who buys it.
    """
    n = len(theme)
    themes, styles = np.array(SECOND_THEMES if second else THEMES), np.array(SECOND_STYLES if second else STYLES)
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
    parts = (noun_word, "in", theme_word, "and", style_word) if second else (style_word, theme_word, noun_word)
    titles = say(*parts) + by_brand.astype(object) + tail.astype(object)
    if second:
        themes, styles = np.array(THEMES), np.array(STYLES)
    other_theme, other_style = themes[theme, 1 - which_theme], styles[style, 1 - which_style]
    descriptions = say(noun_word, "with", theme_word, other_theme, "theme and", style_word, other_style, "look")
    strip = np.frompyfunc(str.strip, 1, 1)
    return strip(titles).astype(str), strip(descriptions).astype(str)
