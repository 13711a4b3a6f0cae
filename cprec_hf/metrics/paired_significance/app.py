"""The Space's page: paste the values of two methods on the same users as JSON, read how sure the difference is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paired_significance import summarise


def answer(method: str, reference: str, users: str, seeds: str, groups: str) -> dict[str, Any]:
    """The comparison for JSON lists, the last three of which may be empty, or `{"error": why}`."""
    try:
        labels = [json.loads(text) if text.strip() else None for text in (users, seeds, groups)]
        return _rounded(summarise(json.loads(method), json.loads(reference), *labels))
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
            gr.Textbox("[0.5, 0.75, 0.75, 1.0]", label="predictions1: the method's values"),
            gr.Textbox("[0.25, 0.5, 0.75, 0.5]", label="predictions2: the reference's values, same rows"),
            gr.Textbox('["u", "v", "w", "x"]', label="users: a label per row; may be empty"),
            gr.Textbox("", label="seeds: a label per row, of its run; may be empty"),
            gr.Textbox("", label="groups: a label per row, such as the dataset; may be empty"),
        ],
        outputs=gr.JSON(label="result", open=True),
        title="paired_significance",
        description="Is one method better than another on the same users?",
        article=card.split("# paired_significance\n", 1)[1],
        flagging_mode="never",
    ).launch()


if __name__ == "__main__":
    main()
