"""Reference suite for sequential generative models: data, models, bounds, tables."""

__version__ = "0.2.0"
