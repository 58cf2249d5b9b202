"""Tasks, and the evaluation and audit of models from outside the package on them."""
