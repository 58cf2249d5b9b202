"""How trustworthy the estimators and the check are."""
