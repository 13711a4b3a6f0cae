"""Coverage, Gini, novelty, intra-list diversity, popularity lift and position bias of recommended lists."""
