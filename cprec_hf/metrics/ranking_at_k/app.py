"""The Space's page: paste scores and relevance as JSON, read the metrics."""

from __future__ import annotations

import json

from ranking_at_k import ranking_at_k


def answer(scores: str, relevance: str, ks: str) -> dict[str, float | str]:
    """The means over rows for JSON lists of lists and comma-separated cut-offs, or `{"error": why}`."""
    try:
        per_row = ranking_at_k(json.loads(scores), json.loads(relevance), [int(k) for k in ks.split(",")])
    except ValueError as error:
        return {"error": str(error)}
    return {name: float(values.mean()) for name, values in per_row.items()}


def main() -> None:
    """Serve the page."""
    import gradio as gr

    gr.Interface(
        fn=answer,
        inputs=[
            gr.Textbox("[[0.9, 0.5, 0.1], [0.2, 0.2, 0.2]]", label="predictions: scores, one row per user"),
            gr.Textbox("[[0, 1, 0], [1, 0, 0]]", label="references: relevance, same shape"),
            gr.Textbox("1, 2", label="k"),
        ],
        outputs=gr.JSON(),
        title="ranking_at_k",
        description="hr, ndcg, mrr and recall at k; tied scores are taken in expectation over their orders.",
    ).launch()


if __name__ == "__main__":
    main()
