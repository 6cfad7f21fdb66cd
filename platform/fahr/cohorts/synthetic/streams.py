"""Random numbers by name: every quantity draws from its own stream, so adding one never shifts another."""

import zlib

import numpy as np


def stream(seed: int, name: str, *keys: int) -> np.random.Generator:
    """The generator of (seed, name, keys): the same numbers on every day and in every process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, zlib.crc32(name.encode()), *keys))))
