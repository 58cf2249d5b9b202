"""Properties of a family of models, declared on its class, that configuration and training need.

No torch here: the Snakefile reads them in every job it starts.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

# How log p(x) is computed: exactly; by importance sampling over z; or exactly up to a normaliser Z
# that is estimated.
EXACT, SAMPLED, Z_BY_AIS = "exact", "sampled", "Z by AIS"


class Traits(NamedTuple):
    """The properties of a family that do not depend on its sizes.

    Attributes:
        latent: it has a latent variable; without one its likelihood needs no samples.
        discrete: its latent variable is discrete, so that no gradient flows through it.
        whole_sequences: its inference reads the whole sequence or the step before, so that in a
            cut sequence it would see less.
        needed_option: the option of a data set that holds the true equations it is built from.
        true_parameters: it has all true parameters and nothing to learn: its likelihood is the
            true one.
    """

    latent: bool = True
    discrete: bool = False
    whole_sequences: bool = False
    needed_option: str = ""
    true_parameters: bool = False


def declared(source: Path) -> Traits:
    """Return the traits that a class in a Python file declares; the defaults if none does.

    The file is parsed, not run: `traits = Traits(discrete=True)` in a class's body is found. What a
    class inherits or computes is not; `repro.training.run` checks the built model again.
    """
    try:
        return _declared_in(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return Traits()  # loading the file will raise the error


@cache  # a preset asks for each of its cells
def _declared_in(code: str) -> Traits:
    for node in ast.walk(ast.parse(code)):
        for line in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "traits":
                return _traits_from_call(line.value)
    return Traits()


def _traits_from_call(value: ast.expr) -> Traits:
    try:
        given = {word.arg: ast.literal_eval(word.value) for word in value.keywords}  # type: ignore
        return Traits(**given)
    except (AttributeError, TypeError, ValueError):
        return Traits()


def misfit(traits: Traits, training: dict, data_options: dict) -> str:
    """Return why a family cannot be trained this way, or on these data; "" if it can."""
    objective = training.get("objective", "elbo")
    if "segment" in training and traits.whole_sequences:
        return (
            "its inference reads whole sequences, which cannot be cut; remove `segment` from its "
            "training."
        )
    if objective != "elbo" and not traits.latent:
        return (
            "it has no latent variables, so that its likelihood is exact; remove "
            f"`objective: {objective}` from its training."
        )
    if objective == "fivo" and traits.discrete:
        return (
            "its z is discrete, but FIVO's gradient flows through z; set `objective` to iwae "
            "(which is VIMCO here) or to nasmc."
        )
    if traits.needed_option and traits.needed_option not in data_options:
        return (
            f"it needs a data set with `{traits.needed_option}` among its options; this one has "
            "none in config/datasets.yaml."
        )
    return ""
