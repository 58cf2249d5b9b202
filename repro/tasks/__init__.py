"""Tasks, and models from outside the package on them: evaluated, audited."""
