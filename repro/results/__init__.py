"""Stored results, and how new ones are compared with them; no torch."""
