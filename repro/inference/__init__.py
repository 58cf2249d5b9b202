"""Bounds and estimators of log p(x), independent of data sets."""
