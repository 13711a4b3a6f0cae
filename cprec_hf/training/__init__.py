"""The WSA schedule, the kernels, and one thin stage per file on TRL: base, cpt, anneal, sft.

Importing this package makes `lr_scheduler_type: wsa` known to transformers, TRL and their parsers.
"""

from cprec_hf.training.wsa import Phases, get_wsa_schedule, register_wsa, wsa_phases

__all__ = ["Phases", "get_wsa_schedule", "wsa_phases"]

register_wsa()
