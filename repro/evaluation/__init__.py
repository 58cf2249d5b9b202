"""Checkpoint in; numbers, predictions and samples out."""
