"""What `evaluate.load("corpus_leakage").compute` gives for some inputs, as `evaluate`'s Spaces list it."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "data": [{"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 7}],
        "examples": [],
        "result": {
            "rules_broken": 0,
            "downstream_domain_in_pretraining": 0,
            "held_out_event_in_pretraining": 0,
            "pretraining_after_cut": 0,
            "pretraining_after_held_out_event": 0,
            "held_out_event_as_train_target": 0,
            "held_out_event_in_train_history": 0,
            "test_event_in_held_out_history": 0,
            "target_in_its_history": 0,
            "train_after_cut": 0,
            "held_out_before_cut": 0,
            "held_out_twice_of_one_user": 0,
            "users_out_of_order": 0,
            "target_not_once_in_candidates": 0,
            "candidate_twice": 0,
            "candidate_in_history": 0,
            "candidate_among_training_items": 0,
            "memoriser_hr@1": 0.0,
            "memoriser_chance": 0.0,
            "memoriser_recognised": 0,
            "memoriser_p": 1.0,
            "shared_users": {"Books": {"Books": 1}},
            "shared_item_ids": {"Books": {"Books": 1}},
        },
    },
]
