"""Measures how far the estimators and the check can be trusted."""
