"""How far to trust the estimators and the check."""
