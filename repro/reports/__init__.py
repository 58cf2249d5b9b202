"""Results in; tables, figures and pages out."""
