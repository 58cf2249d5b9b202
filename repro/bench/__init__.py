"""How fast training and evaluation are, compared with plain code and with Pyro."""
