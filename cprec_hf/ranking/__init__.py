"""A model ranks a candidate set or the whole catalogue. Importing it registers the transformers pipeline."""

from cprec_hf.ranking.pipeline import register
from cprec_hf.ranking.recommender import Recommendation, Recommender
from cprec_hf.ranking.scoring import score_candidates

__all__ = ["Recommendation", "Recommender", "score_candidates"]

register()
