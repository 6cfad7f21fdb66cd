"""The weights that a model starts from (docs/training.md). Networks of timm start as timm makes them."""

import torch
from torch import nn

from fahr.models.encoder import Encoder
from fahr.models.heads import Predictor
from fahr.models.mae import MaskedAutoencoder
from fahr.models.timm_trunk import TimmTrunk


@torch.no_grad()
def initialise(model: MaskedAutoencoder | Predictor) -> None:
    """Linear layers and convolutions xavier-uniform with bias 0, the patch embedding as the linear layer that it is;
    CLS, mask token and heads N(0, 0.02); LayerNorm 1 and 0. Draws from torch's global generator."""
    if not isinstance(model.encoder, TimmTrunk):
        _initialise(model)
    if isinstance(model.encoder, Encoder):
        nn.init.normal_(model.encoder.cls_token, std=0.02)
    if isinstance(model, MaskedAutoencoder):
        nn.init.normal_(model.decoder.mask_token, std=0.02)
    else:
        nn.init.normal_(model.head.weight, std=0.02)
        nn.init.zeros_(model.head.bias)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            flat = isinstance(module, nn.Linear) or module.stride == module.kernel_size  # a patch embedding
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1) if flat else module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
