"""The Space's page: paste events and examples as JSON, read what leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from corpus_leakage import EVENTS, EXAMPLES, corpus_leakage

EVENT = '[{"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 9}]'
EXAMPLE = (
    '[{"split": "test", "user_id": "ann", "domain": "Music", "target": "m2", "history": ["m1"],'
    ' "candidates": ["m2", "m3"], "timestamp": 12}]'
)


def answer(events: str, examples: str, cut: str) -> dict[str, Any]:
    """The measurement for two JSON lists of objects and an optional time, or `{"error": why}`."""
    try:
        tables = [
            pa.Table.from_pylist(json.loads(text), schema) for text, schema in ((events, EVENTS), (examples, EXAMPLES))
        ]
        return _rounded(corpus_leakage(*tables, cut=int(cut) if cut.strip() else None))
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
            gr.Textbox(EVENT, label="data: pre-training events", lines=3),
            gr.Textbox(EXAMPLE, label="examples: what is fine-tuned and tested on", lines=5),
            gr.Textbox("8", label="cut: where validation begins; may be empty"),
        ],
        outputs=gr.JSON(label="result", open=True),
        title="corpus_leakage",
        description="Does what a recommender is trained on tell what it is tested on?",
        article=card.split("# corpus_leakage\n", 1)[1],
        flagging_mode="never",
    ).launch()


if __name__ == "__main__":
    main()
