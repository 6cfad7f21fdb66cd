"""Batch norms of a network at rest, folded into the convolutions before them: the same function, fewer passes."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_sequences(network: nn.Module) -> None:
    """Every convolution that a batch norm follows in a Sequential; in place."""
    for sequence in [each for each in network.modules() if isinstance(each, nn.Sequential)]:
        names = list(sequence._modules)
        for first, second in pairwise(names):
            fold_pair(sequence, first, second)


@torch.no_grad()
def fold_pair(parent: nn.Module, convolution: str, norm: str) -> None:
    """`parent.norm` goes into `parent.convolution`, if they are what their names say; in place."""
    conv, batch_norm = parent._modules[convolution], parent._modules[norm]
    if isinstance(conv, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):
        setattr(parent, convolution, fuse_conv_bn_eval(conv, batch_norm))
        setattr(parent, norm, nn.Identity())
