"""Ranking metrics at k, ties taken in expectation: `from ...ranking_at_k.ranking_at_k import ranking_at_k`."""
