"""Bounds and estimators of log p(x); they know no data set."""
