"""The Space's page: paste generated titles, targets and candidate lists as JSON, read the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from candidate_match import candidate_match, summarise


def answer(predictions: str, references: str, candidates: str, catalogue: str, histories: str) -> dict[str, Any]:
    """The metrics for JSON lists, the last two of which may be empty, or `{"error": why}`."""
    try:
        given = [json.loads(text) if text.strip() else None for text in (catalogue, histories)]
        match = candidate_match(json.loads(predictions), json.loads(references), json.loads(candidates), *given)
        return _rounded(summarise(match))
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
            gr.Textbox('["Blue  pen", "a pencil"]', label="predictions: generated titles, or lists of them", lines=2),
            gr.Textbox('["Blue pen", "Ruler"]', label="references: target titles"),
            gr.Textbox('[["Ruler", "Blue pen"], ["Ruler", "Blue pen"]]', label="candidates: lists of titles", lines=2),
            gr.Textbox('["Ruler", "Blue pen", "Glue"]', label="catalogue: all titles; may be empty"),
            gr.Textbox('[["Glue"], ["Glue"]]', label="histories: lists of titles; may be empty"),
        ],
        outputs=gr.JSON(label="result", open=True),
        title="candidate_match",
        description="Do generated titles name the target, a candidate, anything that exists, or something old?",
        article=card.split("# candidate_match\n", 1)[1],
        flagging_mode="never",
    ).launch()


if __name__ == "__main__":
    main()
