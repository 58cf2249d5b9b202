"""Sets up the device to compute on, torch's threads and determinism."""

import ctypes
import os
import sys

import torch

from repro.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
MMAP_LIMIT = 32 * 2**20  # the highest that glibc takes


def use_threads(threads: int) -> None:
    """Fix torch's CPU threads, and let glibc keep the memory that tensors free.

    By default glibc returns large blocks to the system at once, so that each step faults their
    pages in again, which costs a tenth to a fifth of a VRNN's step. Without glibc, nothing is set.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_LIMIT)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def prepare_device(setting: str, threads: int, precision: str = "float32") -> torch.device:
    """Return the device to use, after fixing torch's thread count and determinism.

    Args:
        setting: "auto" (a GPU if there is one), "cpu" or "cuda".
        threads: CPU threads; bits differ between thread counts, so it is never left to torch.
        precision: of matrix products on a GPU, "float32" or "tf32" (ten bits of mantissa, faster);
            torch by itself would use TF32 inside LSTMs.
    Raises:
        ConfigError: "cuda" where there is none.
    """
    use_threads(threads)
    if setting == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda, but torch sees no GPU here; set it to auto or cpu.")
    use_gpu = setting == "cuda" or (setting == "auto" and torch.cuda.is_available())
    if use_gpu:
        # On a CPU these models are bitwise repeatable without it, and it costs a second of imports.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats only with it
        torch.use_deterministic_algorithms(True)
        bits = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = bits
        torch.backends.cudnn.fp32_precision = bits
    return torch.device("cuda" if use_gpu else "cpu")
