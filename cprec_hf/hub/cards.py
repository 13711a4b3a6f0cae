"""Cards: generated from recorded facts, never written by hand. Text that users gave stays text.

One function a card, each in a module of its own with its template in `dataset_cards/` or `model_cards/`. A card is
generated whole on each push; only its free section is a person's, and survives:

    text = render_model_card({**facts, "free": free_section(card_of_the_last_push)})
    validate_card(text, "model")
"""

from __future__ import annotations

import json

from cprec_hf.errors import InputError
from cprec_hf.hub.card_parts import free_section
from cprec_hf.hub.dataset_card import render_dataset_card
from cprec_hf.hub.files import RepoType
from cprec_hf.hub.markdown import one_line
from cprec_hf.hub.model_card import render_model_card
from cprec_hf.hub.results_card import render_results_card

__all__ = ["free_section", "render_dataset_card", "render_model_card", "render_results_card", "validate_card"]


def validate_card(text: str, repo_type: RepoType) -> None:
    """Have a card's metadata checked by the Hub in use (`HF_ENDPOINT`), by the rules its pages and pushes go by.

    Raises:
        InputError: what is wrong with the metadata, in the validator's own words.
        huggingface_hub.errors.HfHubHTTPError: the Hub could not answer, and httpx2's transport errors: worth a retry.
    """
    import yaml
    from huggingface_hub import ModelCard, RepoCard, constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    try:  # what clients that load the card would stumble over, the model-index of a model among it
        (ModelCard if repo_type == "model" else RepoCard)(text)
    except yaml.YAMLError as error:
        raise InputError(f"README.md: the front matter is not YAML: {one_line(error)}") from None
    except ValueError as error:
        raise InputError(f"README.md: the metadata cannot be read: {one_line(error)}") from None
    # Not `RepoCard.validate`: it sends metadata that it has read, mended and written again.
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": repo_type, "content": text},
        headers=build_hf_headers(),
    )
    if response.status_code == 400:
        raise InputError(f"README.md: the Hub refuses the metadata: {_said(response.text)}")
    hf_raise_for_status(response)


def _said(answer: str) -> str:
    """The messages of a validator's answer, which comes as JSON or as text."""
    try:
        messages = [str(error["message"]) for error in json.loads(answer)["errors"]]
    except (ValueError, KeyError, TypeError):
        messages = [answer]
    return one_line("; ".join(messages))
