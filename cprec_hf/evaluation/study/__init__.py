"""The study: a matrix of methods, domains, seeds and ablations as resumable cells (`cprec study`)."""
