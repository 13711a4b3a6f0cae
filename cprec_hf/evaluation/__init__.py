"""Evaluation: the protocol, baselines and ceilings, significance, the report with its plots."""
