"""The smallest std and variance of a Gaussian, which the layers and the kernels share."""

STD_FLOOR = 1e-4  # nips2015_vrnn
VARIANCE_FLOOR = 1e-8  # ours: a softplus that underflows to 0 has no density
