"""Cards: generated from recorded facts, never written by hand. Text that users gave stays text.

One function a card, each in a module of its own with its template in `dataset_cards/` or `model_cards/`. A card is
generated whole on each push; only its free section is a person's, and survives:

    text = render_model_card({**facts, "free": free_section(card_of_the_last_push)})
"""

from __future__ import annotations

from cprec_hf.hub.card_parts import free_section
from cprec_hf.hub.dataset_card import render_dataset_card
from cprec_hf.hub.model_card import render_model_card
from cprec_hf.hub.results_card import render_results_card

__all__ = ["free_section", "render_dataset_card", "render_model_card", "render_results_card"]
