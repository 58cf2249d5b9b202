"""Observation distributions p(x_t | features)."""
