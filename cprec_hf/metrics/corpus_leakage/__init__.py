"""Leaks into pre-training, between splits and from candidates: `from ...corpus_leakage import corpus_leakage`."""
