"""A model ranks a candidate set or the whole catalogue. Importing it registers the transformers pipeline."""

from cprec_hf.ranking.pipeline import register
from cprec_hf.ranking.recommender import Recommendation, Recommender
from cprec_hf.ranking.scoring import invalid_mass, score_candidates, score_catalogue
from cprec_hf.ranking.search import top_rows
from cprec_hf.ranking.trie import Trie

__all__ = [
    "Recommendation",
    "Recommender",
    "Trie",
    "invalid_mass",
    "score_candidates",
    "score_catalogue",
    "top_rows",
]

register()
