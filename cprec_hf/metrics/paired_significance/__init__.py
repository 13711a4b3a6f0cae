"""Paired comparison of two methods over users and seeds: bootstrap, t-test, Wilcoxon, effect sizes, Holm."""
