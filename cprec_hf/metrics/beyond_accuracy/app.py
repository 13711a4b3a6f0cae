"""The Space's page: paste lists of items and what is known of the items as JSON, read the measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beyond_accuracy import summarise


def answer(lists: str, catalogue: str, popularity: str, features: str, histories: str, scores: str) -> dict[str, Any]:
    """The measures for JSON lists, the last four of which may be empty, or `{"error": why}`."""
    try:
        optional = [json.loads(text) if text.strip() else None for text in (popularity, features, histories, scores)]
        return _rounded(summarise(json.loads(lists), json.loads(catalogue), *optional))
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
            gr.Textbox('[["a", "b"], ["a", "c"]]', label="predictions: recommended items, one list per user"),
            gr.Textbox('["a", "b", "c", "d"]', label="catalogue: all items"),
            gr.Textbox("[6, 1, 1, 0]", label="popularity: training events of each item; may be empty"),
            gr.Textbox(
                '["red lamp", "blue lamp", "desk", "chair"]',
                label="features: a title, a list of categories or a vector of each item; may be empty",
            ),
            gr.Textbox('[["b", "c"], ["a"]]', label="histories: lists of items; may be empty"),
            gr.Textbox("[[0.9, 0.1], [0.7, 0.3]]", label="candidate_scores: in the order listed; may be empty"),
        ],
        outputs=gr.JSON(label="result", open=True),
        title="beyond_accuracy",
        description="What recommended lists are like, whatever they hit.",
        article=card.split("# beyond_accuracy\n", 1)[1],
        flagging_mode="never",
    ).launch()


if __name__ == "__main__":
    main()
