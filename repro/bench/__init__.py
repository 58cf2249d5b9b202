"""How fast training and evaluation are, compared with what one would write or use instead."""
