"""The Space's page: paste generated titles, targets and candidate lists as JSON, read the metrics."""

from __future__ import annotations

import json

from candidate_match import candidate_match, summarise


def answer(predictions: str, references: str, candidates: str) -> dict[str, float | str]:
    """hr_all, hr_valid and valid_ratio for JSON lists, or `{"error": why}`."""
    try:
        return {**summarise(candidate_match(json.loads(predictions), json.loads(references), json.loads(candidates)))}
    except (ValueError, TypeError) as error:
        return {"error": str(error)}


def main() -> None:
    """Serve the page."""
    import gradio as gr

    gr.Interface(
        fn=answer,
        inputs=[
            gr.Textbox('["Blue  pen", "a pencil"]', label="predictions: generated titles"),
            gr.Textbox('["Blue pen", "Ruler"]', label="references: target titles"),
            gr.Textbox('[["Ruler", "Blue pen"], ["Ruler", "Blue pen"]]', label="candidates: lists of titles"),
        ],
        outputs=gr.JSON(),
        title="candidate_match",
        description="Do generated titles name the target, or any candidate at all?",
    ).launch()


if __name__ == "__main__":
    main()
