"""One file per family. `build` finds a family by its name; there is no list to keep."""

from repro.config.plugins import load_object
from repro.models.base import ModelSpec, SequenceModel


def build(spec: ModelSpec) -> SequenceModel:
    """Return the model that a recipe describes, with its initial weights drawn by torch's seed.

    Args:
        spec: the model's entry and its data. `spec.family` is a module of this package that has
            `build(spec)`, or "package.module:function" or "config/file.py:function" for a model of
            your own.
    Raises:
        ConfigError: the family does not exist.
    """
    name = spec.family if ":" in spec.family else f"repro.models.{spec.family}:build"
    return load_object(name, f"family of model '{spec.name}'")(spec)
