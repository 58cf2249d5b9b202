"""Checks settings against config/schema.yaml, with hints where YAML reads what nobody meant."""

import re
from typing import Any

from repro.errors import ConfigError


def validate(config: dict, schema: dict) -> None:
    """Check settings against a schema.

    Raises:
        ConfigError: the worst mistake, with its position in the settings.
    """
    try:  # a bare GPU machine has no jsonschema, and needs none when all is given
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
        from jsonschema.validators import extend
    except ImportError:
        raise ConfigError(
            "checking a preset needs the jsonschema package; without it, give every setting of "
            "the command by its flag (--config, --device, --threads, …)."
        ) from None

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _whole)
    validator = extend(Draft202012Validator, type_checker=types)
    error = best_match(validator(schema).iter_errors(config))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "configuration"
        raise ConfigError(f"{where}: {error.message[:300]}{_hint(error)} (see config/schema.yaml)")


def _whole(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 20.0 is not a count


def _hint(error: Any) -> str:
    """Return what to write instead where YAML read something other than what was meant."""
    value = error.instance
    if isinstance(value, bool) and error.validator == "enum":
        return "; YAML reads a bare on, off, yes or no as true or false"
    scientific = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", str(value))
    if isinstance(value, str) and error.validator == "type" and scientific:
        whole, fraction, sign, power = scientific.groups()
        return f"; YAML reads it as text: write {whole}{fraction or '.0'}e{sign or '+'}{power}"
    return ""
