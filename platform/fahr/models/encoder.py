"""The Vision Transformer that reads faces. B = images, N = patches, K = visible ones, D = width.

Parameters carry timm's names, so that its checkpoints fit one to one; the blocks are timm's own.
"""

import torch
from timm.layers.activations import QuickGELU
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from fahr.errors import Refused
from fahr.models.architecture import Architecture
from fahr.models.patches import cut
from fahr.models.positions import sincos_table
from fahr.models.trunk import Trunk, check_size

_ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its width, done as one matrix product over the patches that are looked at."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)  # holds the weights in the shape that checkpoints have

    def forward(self, patches: Tensor) -> Tensor:
        """(B, K, 3, P, P) -> (B, K, D)"""
        return functional.linear(patches.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class Encoder(Trunk):
    pos_embed: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        # A buffer: fixed, but saved, since a foreign checkpoint may put the table there that it learned.
        self.register_buffer("pos_embed", sincos_table(width, architecture.grid))
        self.patch_embed = PatchEmbedding(architecture.patch, width)
        self.norm_pre = LayerNorm(width) if architecture.pre_norm else nn.Identity()
        self.blocks = make_blocks(
            width, architecture.depth, architecture.num_heads, architecture.mlp_ratio, architecture.activation
        )
        self.norm = LayerNorm(width)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) normalised -> (B, 1 + N, D) after the last norm, CLS first.

        With `keep`, (B, K) of patch numbers: (B, 1 + K, D), as if the image had no other patches.
        """
        check_size(images, self.architecture.size)
        with self.rounded(images):
            return self._encode(images, keep)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D) fp32, CLS after the last norm."""
        encoded: Tensor = self(images)
        return encoded[:, 0].float()

    def _encode(self, images: Tensor, keep: Tensor | None) -> Tensor:
        tokens = self.patch_embed(cut(images, self.architecture.patch, keep)) + at(self.pos_embed, keep)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = self.norm_pre(torch.cat([cls, tokens], 1))
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


def at(pos_embed: Tensor, which: Tensor | None) -> Tensor:
    """(1, 1 + N, D), (B, K) of patch numbers -> (B, K, D) their positions; without `which` (1, N, D), those of all."""
    return pos_embed[:, 1:] if which is None else pos_embed[0, 1:][which]


def make_blocks(
    width: int, depth: int, num_heads: int, mlp_ratio: float = 4.0, activation: str = "gelu"
) -> nn.ModuleList:
    act = _ACTIVATIONS[activation]
    return nn.ModuleList(
        Block(width, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm, act_layer=act)
        for _ in range(depth)
    )


def drop_paths(encoder: Trunk, rate: float) -> None:
    """Skip a block's branches at random while training: never in the first block, with `rate` in the last."""
    if not 0 <= rate < 1:
        raise Refused(f"drop path {rate!r}: must be at least 0 and below 1. Give 0.1, or 0 for none.")
    if rate and not len(encoder.blocks):
        raise Refused(
            f"drop path {rate}: this network has no transformer blocks whose branches could be left out. Give 0."
        )
    for number, block in enumerate(encoder.blocks):
        share = rate * number / max(1, len(encoder.blocks) - 1)
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)
