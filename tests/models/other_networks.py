"""Networks of other projects, written out, and files of their weights: what test_layouts*.py opens.

Every weight is random, norms and biases too, so that two that were exchanged would show.
"""

import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fahr.models import MaskedAutoencoder, Predictor
from fahr.models.masking import Mask, random_mask

WIDTH, DEPTH, HEADS, PATCH, SIZE = 64, 2, 4, 8, 32
NARROW, NARROW_HEADS = 32, 4
N = (SIZE // PATCH) ** 2
State = dict[str, Tensor]


def randomised(model: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + ("norm" in name))
    return model.eval()


def images(size: int = SIZE, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def timm_vit(**options: Any) -> Any:
    shape = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, global_pool="token")
    return randomised(VisionTransformer(**(shape | {"num_classes": 0} | options)))


class HfDense(nn.Module):
    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(wide, out)


class HfSelf(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)


class HfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.output = HfSelf(width), HfDense(width, width)


class HfLayer(nn.Module):
    """A pre-norm block as Transformers lays it out, with attention written head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = HfAttention(width)
        self.intermediate, self.output = HfDense(width, 4 * width), HfDense(4 * width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)  # Transformers' ViT; ours has 1e-6
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        normed, inner = self.layernorm_before(x), self.attention.attention
        q, k, v = inner.query(normed), inner.key(normed), inner.value(normed)
        step, mixed = q.shape[-1] // self.heads, []
        for start in range(0, q.shape[-1], step):
            part = slice(start, start + step)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(step)
            mixed.append(scores.softmax(-1) @ v[..., part])
        x = x + self.attention.output.dense(torch.cat(mixed, -1))
        hidden = functional.gelu(self.intermediate.dense(self.layernorm_after(x)))
        return x + self.output.dense(hidden)


class HfEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + N, WIDTH))
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        patches = self.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2) + self.position_embeddings[:, 1:]
        if keep is not None:
            patches = torch.stack([row[which] for row, which in zip(patches, keep, strict=True)])
        cls = self.cls_token + self.position_embeddings[:, :1]
        return torch.cat([cls.expand(len(pixels), 1, WIDTH), patches], 1)


class HfVit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = HfEmbeddings()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(HfLayer(WIDTH, HEADS) for _ in range(DEPTH))
        self.layernorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.embeddings(pixels, keep)
        for layer in self.encoder.layer:
            x = layer(x)
        return self.layernorm(x)


class HfDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(WIDTH, NARROW)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, NARROW))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + N, NARROW))
        self.decoder_layers = nn.ModuleList(HfLayer(NARROW, NARROW_HEADS) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(NARROW, eps=1e-12)
        self.decoder_pred = nn.Linear(NARROW, PATCH * PATCH * 3)


class HfVitMae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit, self.decoder = HfVit(), HfDecoder()

    def forward(self, pixels: Tensor, keep: Tensor) -> Tensor:
        d = self.decoder
        return decode(self.vit(pixels, keep), keep, d, d.decoder_layers)


class ReferenceMae(nn.Module):
    """The layout of the public MAE code: timm's names, and the decoder's beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit()
        for name, part in list(self.vit.named_children()):
            setattr(self, name, part)
        self.cls_token, self.pos_embed = self.vit.cls_token, self.vit.pos_embed
        del self.vit
        self.decoder_embed = nn.Linear(WIDTH, NARROW)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, NARROW))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + N, NARROW))
        self.decoder_blocks = nn.ModuleList(Block(NARROW, NARROW_HEADS, qkv_bias=True) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(NARROW, eps=1e-6)
        self.decoder_pred = nn.Linear(NARROW, PATCH * PATCH * 3)

    def forward(self, pixels: Tensor, keep: Tensor) -> Tensor:
        patches = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        patches = torch.stack([row[which] for row, which in zip(patches, keep, strict=True)])
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(pixels), 1, WIDTH)
        x = torch.cat([cls, patches], 1)
        for block in self.blocks:
            x = block(x)
        return decode(self.norm(x), keep, self, self.decoder_blocks)


def decode(encoded: Tensor, keep: Tensor, parts: Any, blocks: nn.ModuleList) -> Tensor:
    """Every patch in its place, mask tokens where nothing was seen -> (B, N, P * P * 3)."""
    embedded = parts.decoder_embed(encoded)
    full = parts.mask_token.expand(len(encoded), N, NARROW).clone()
    for row, which in enumerate(keep):
        full[row, which] = embedded[row, 1:]
    x = torch.cat([embedded[:, :1], full], 1) + parts.decoder_pos_embed
    for block in blocks:
        x = block(x)
    return parts.decoder_pred(parts.decoder_norm(x))[:, 1:]


def reconstruction_loss(prediction: Tensor, pixels: Tensor, masked: Tensor) -> float:
    """norm_pix, patch by patch, as the reference MAE does."""
    errors = []
    for b, row in enumerate(masked.tolist()):
        for n in row:
            top, left = n // (SIZE // PATCH) * PATCH, n % (SIZE // PATCH) * PATCH
            patch = pixels[b, :, top : top + PATCH, left : left + PATCH].permute(1, 2, 0).flatten()
            target = (patch - patch.mean()) / (patch.var(correction=1) + 1e-6).sqrt()
            errors.append(((prediction[b, n] - target) ** 2).mean())
    return float(torch.stack(errors).mean())


def write(tmp_path: Path, state: Any, name: str = "weights.pth", **options: Any) -> str:
    place = tmp_path / name
    if place.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, place)
    else:
        torch.save(state, place, **options)
    return str(place)


def heads(**more: Any) -> dict[str, Any]:
    return {"num_heads": HEADS, **more}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def mask() -> Mask:
    return random_mask(3, N, 0.75, torch.Generator().manual_seed(2))


def encoder_of(model: MaskedAutoencoder | Predictor, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        encoded: Tensor = model.encoder(pixels)
    return encoded


class HfAge(nn.Module):
    """ViT + one linear layer on CLS: the authors' FAHR-FaceAge as they describe it."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.vit, self.name = HfVit(), head
        setattr(self, head, nn.Linear(WIDTH, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return getattr(self, self.name)(self.vit(pixels)[:, 0])[:, 0]


MAE: dict[str, Any] = {"num_heads": HEADS, "decoder_heads": NARROW_HEADS}
