"""CUDA graphs: a computation's kernels, recorded once per shape and replayed without Python."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # calls before the recording, in which libraries choose kernels and allocate memory


class Recorded:
    """A function of tensors that is recorded once per input shape and then replayed.

    The function must launch the same kernels at every call with these shapes and never wait for the
    device; what it reads apart from its inputs must stay where it is in memory. What it returns is
    overwritten by the next call with the same shapes. Not run on a GPU yet: see docs/cluster.md.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.function = function
        self._records: dict[tuple, tuple[list[Tensor], Callable, tuple[Tensor, ...]]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the function's value."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._records:
            static_inputs = [tensor.clone() for tensor in inputs]
            self._records[shapes] = static_inputs, *self._record(static_inputs)
        static_inputs, replay, outputs = self._records[shapes]
        for recorded, tensor in zip(static_inputs, inputs, strict=True):
            recorded.copy_(tensor)
        replay()
        return outputs

    def _record(self, inputs: list[Tensor]) -> tuple[Callable, tuple[Tensor, ...]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*inputs)
        return graph.replay, outputs
