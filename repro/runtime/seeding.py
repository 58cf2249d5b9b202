"""Independent random streams from one seed."""

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed for a purpose, such as derive(seed, "noise").

    Streams of different purposes, sequences or blocks are unrelated, on every machine alike.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded for a purpose; see `derive`."""
    return torch.Generator(device).manual_seed(derive(*parts))
