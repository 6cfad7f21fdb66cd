"""The weights that a model starts from (science.md 3.1)."""

import torch
from torch import nn

from fahr.models.heads import Predictor
from fahr.models.mae import MaskedAutoencoder


@torch.no_grad()
def initialise(model: MaskedAutoencoder | Predictor) -> None:
    """Linear layers xavier-uniform with bias 0, the patch embedding as the linear layer that it is; CLS, mask token and
    heads N(0, 0.02); LayerNorm 1 and 0. Draws from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.encoder.cls_token, std=0.02)
    if isinstance(model, MaskedAutoencoder):
        nn.init.normal_(model.decoder.mask_token, std=0.02)
    else:
        nn.init.normal_(model.head.weight, std=0.02)
