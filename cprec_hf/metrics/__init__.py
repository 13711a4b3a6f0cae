"""Metrics: one complete `evaluate` Space folder per metric; nothing here imports another room."""
