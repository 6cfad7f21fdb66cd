"""Random numbers that belong to a sample: a function of (seed, stream, position) and of nothing else.

    u = uniform(seed, positions, "augment.crop", 4)     # (B, 4), whoever computes it, whatever stands beside it

`position` counts the samples that a run has consumed, so a number does not change with the number of workers, with the
batch it is computed in, or with a restart. `stream` names the use: two uses never share numbers, and a new one moves
none of the old ones. B = samples.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, in Stafford's variant 13), applied to the position
and again to the number's place in its row. It is whole-number arithmetic modulo 2^64: the same bits on every device.
"""

import hashlib
import math

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9e3779b97f4a7c15, SplitMix64's step, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xbf58476d1ce4e5b9, 0x94d049bb133111eb


def uniform(seed: int, positions: Tensor, stream: str, count: int) -> Tensor:
    """(B,) long -> (B, count) float32 in [0, 1), multiples of 2^-24, on the device of `positions`."""
    return (_bits(seed, positions, stream, count) >> 40 & 0xFFFFFF).float() * 2.0**-24


def normal(seed: int, positions: Tensor, stream: str, count: int) -> Tensor:
    """(B,) long -> (B, count) float32, standard normal (Box and Muller 1958, in float64).

    Devices differ in their logarithms and cosines by a last bit of float64, so in float32 by a last bit at most.
    """
    bits = _bits(seed, positions, stream, 2 * count)
    share = ((bits >> 11 & (1 << 53) - 1).double() + 0.5) * 2.0**-53  # never 0
    radius = (-2 * share[:, 0::2].log()).sqrt()
    return (radius * (2 * math.pi * share[:, 1::2]).cos()).float()


def _bits(seed: int, positions: Tensor, stream: str, count: int) -> Tensor:
    """(B, count) long, all 64 bits of which are random."""
    places = torch.arange(1, count + 1, device=positions.device)
    rows = _mixed(key(seed, stream) + GOLDEN * (positions.long() + 1))
    return _mixed(rows[:, None] + GOLDEN * places)


def key(seed: int, stream: str) -> int:
    """64 bits as a signed number."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest(), "little", signed=True)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right with zeros coming in; torch's own shift of a signed number brings in its sign."""
    return x >> by & (1 << 64 - by) - 1
