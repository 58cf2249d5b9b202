"""The smallest std and variance of a Gaussian, shared by the layers and the kernels."""

STD_FLOOR = 1e-4  # as in the VRNN authors' code, nips2015_vrnn
VARIANCE_FLOOR = 1e-8  # ours: a softplus that underflows to 0 has no density
