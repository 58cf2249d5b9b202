"""How fast training and evaluation are, beside what one would write or use instead."""
