"""A fresh process that knows repo ids only: corpus, metric and model come from the Hub; it measures, then recommends.

    python recipes/tiny/from_the_hub.py me/cprec-tiny-music me/ranking_at_k

The endpoint and the token are those of the environment (`HF_ENDPOINT`, `HF_TOKEN`).
"""

import sys

import evaluate
import numpy as np
from datasets import load_dataset

from cprec_hf import Recommender

USERS, SCORE = 200, "pmi"


def main(model: str, metric: str) -> None:
    """Measure hit rate and NDCG over some test users, then show one user's history and five recommendations."""
    recommender = Recommender.from_pretrained(model)
    corpus, commit, domain = recommender.record.corpus, recommender.record.corpus_revision, recommender.record.domain
    print(f"{model}: fine-tuned on {domain} of {corpus} at {commit[:12]}")

    rows = load_dataset(corpus, f"sft-{domain.lower()}", split=f"test[:{USERS}]", revision=commit)
    scores = recommender.rank(rows["history"], rows["candidates"], score=SCORE)
    relevance = np.array(rows["candidates"]) == np.array(rows["target"])[:, None]
    found = evaluate.load(metric).compute(predictions=scores, references=relevance, k=[1, 5, 10])
    print(f"{metric} over {len(rows)} users:", {name: round(found[name], 3) for name in ("hr@1", "hr@5", "ndcg@10")})

    history = rows[0]["history"]
    print(f"\nHistory of user {rows[0]['user_id']}, oldest first:")
    print(*(f"  {title}" for title in recommender.titles(history, domain)), sep="\n")
    print(f"Recommended in {domain} (score {SCORE}, nats):")
    for place, item in enumerate(recommender.recommend([history], k=5, score=SCORE)[0], 1):
        print(f"  {place}. {item.title}  {item.score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
