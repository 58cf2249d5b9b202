"""A family outside the package, to test that one can be named."""

from repro.models.base import SequenceModel


class Own(SequenceModel):
    def __init__(self, spec):
        super().__init__()
        self.scale = spec.sizes["scale"]


build = Own
