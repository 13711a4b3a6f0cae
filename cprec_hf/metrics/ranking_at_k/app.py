"""The Space's page: paste scores and relevance as JSON, read the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ranking_at_k import group_means, ranking_at_k


def answer(scores: str, relevance: str, ks: str, groups: str) -> dict[str, Any]:
    """The means over rows for JSON lists of lists, comma-separated cut-offs and JSON labels, or `{"error": why}`."""
    try:
        per_row = ranking_at_k(json.loads(scores), json.loads(relevance), [int(k) for k in ks.split(",")])
        means = {name: float(values.mean()) for name, values in per_row.items()}
        return _rounded({**means, "groups": group_means(per_row, json.loads(groups))} if groups.strip() else means)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        return {"error": str(error)}


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(found), parse_float=lambda number: float(f"{float(number):.6g}"))


def main() -> None:
    """Serve the page."""
    import gradio as gr

    card = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    gr.Interface(
        fn=answer,
        inputs=[
            gr.Textbox("[[0.9, 0.5, 0.1], [0.2, 0.2, 0.2]]", label="predictions: scores, one row per user", lines=2),
            gr.Textbox("[[0, 1, 0], [1, 0, 0]]", label="references: relevance, same shape", lines=2),
            gr.Textbox("1, 2", label="k"),
            gr.Textbox('{"domain": ["Books", "Music"]}', label="groups: labels per row by name; may be empty"),
        ],
        outputs=gr.JSON(label="result", open=True),
        title="ranking_at_k",
        description="hr, recall, precision, ndcg, mrr and map at k; ties are taken in expectation over their orders.",
        article=card.split("# ranking_at_k\n", 1)[1],
        flagging_mode="never",
    ).launch()


if __name__ == "__main__":
    main()
