"""Reference suite for sequential generative models: data, models, bounds, tables."""

__version__ = "0.1.0"
