"""The stored truth and its comparison; no torch."""
