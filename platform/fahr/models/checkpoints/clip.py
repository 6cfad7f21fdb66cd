"""CLIP's image encoder, and FaRL's, which is one, under its own names -> ours, reading our pixels.

It is a Vision Transformer with another function: a LayerNorm before the first block, QuickGELU, a patch embedding
without bias, LayerNorm's eps 1e-5 and pixels normalised with other values. Its projection of CLS to where texts lie is
left out: ours ends with CLS after the last norm.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fahr.models.normalization import IMAGENET_MEAN, IMAGENET_STD

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB values between 0 and 1 (Radford 2021, public preprocessing)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
EPS = 1e-5
ACTIVATION = "quick_gelu"
VISUAL = "visual."  # in front of the image encoder's names where texts are in the file too

_KNOWN_BY = re.compile(r"(visual\.)?(class_embedding|ln_pre\.weight|transformer\.resblocks\.0\.attn\.in_proj_weight)")
_IN_BLOCK = r"transformer\.resblocks\.(\d+)\."
_NAMES = [
    (r"class_embedding", "encoder.cls_token"),
    (r"positional_embedding", "encoder.pos_embed"),
    (r"conv1\.weight", "encoder.patch_embed.proj.weight"),
    (r"ln_pre\.(weight|bias)", r"encoder.norm_pre.\1"),
    (r"ln_post\.(weight|bias)", r"encoder.norm.\1"),
    (_IN_BLOCK + r"ln_([12])\.(weight|bias)", r"encoder.blocks.\1.norm\2.\3"),
    (_IN_BLOCK + r"attn\.in_proj_(weight|bias)", r"encoder.blocks.\1.attn.qkv.\2"),  # q, k, v, as in ours
    (_IN_BLOCK + r"attn\.out_proj\.(weight|bias)", r"encoder.blocks.\1.attn.proj.\2"),
    (_IN_BLOCK + r"mlp\.c_fc\.(weight|bias)", r"encoder.blocks.\1.mlp.fc1.\2"),
    (_IN_BLOCK + r"mlp\.c_proj\.(weight|bias)", r"encoder.blocks.\1.mlp.fc2.\2"),
]
_LEAF = r"(ln_[12]\.(weight|bias)|attn\.in_proj_(weight|bias)|(attn\.out_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias))"
# After CLS, or of FaRL's second task: its masked patches have blocks and a head of their own behind the encoder.
_BEHIND = re.compile(rf"proj|mask_token|(ln_lm|lm_head)\.(weight|bias)|lm_transformer\.resblocks\.\d+\.{_LEAF}")
_TEXT = re.compile(
    rf"token_embedding\.weight|positional_embedding|transformer\.resblocks\.\d+\.{_LEAF}|ln_final\.(weight|bias)|"
    r"text_projection|logit_scale"
)
_HEAD = re.compile(r"(head|regressor|fc|classifier)\.(weight|bias)")


@dataclass(frozen=True)
class Tower:
    """Which names of a file are the image encoder's. Without `prefix` all: then nothing of the texts may be there."""

    prefix: str

    def renamed(self, name: str) -> str | None:
        if name.startswith(self.prefix):
            for pattern, new in _NAMES:
                if match := re.fullmatch(pattern, name.removeprefix(self.prefix)):
                    return match.expand(new)
        return None

    def dropped(self, name: str) -> bool:
        """Whether the encoder computes the same without it."""
        if name.startswith(self.prefix) and _BEHIND.fullmatch(name.removeprefix(self.prefix)):
            return True
        return bool(_HEAD.fullmatch(name) or (self.prefix and _TEXT.fullmatch(name)))


def tower(names: Mapping[str, Tensor]) -> Tower | None:
    """None: the file is not CLIP's. `transformer.resblocks` are the texts' blocks where there are `visual.` ones."""
    if not any(_KNOWN_BY.fullmatch(name) for name in names):
        return None
    return Tower(VISUAL if any(name.startswith(VISUAL) for name in names) else "")


def adapted(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shapes of our parameters, and a patch embedding that reads our pixels. Odd shapes are left to be refused."""
    done = dict(named)
    for name, ndim in (("encoder.cls_token", 1), ("encoder.pos_embed", 2)):  # (D,), (1 + N, D)
        if name in done and done[name].ndim == ndim:
            done[name] = done[name][None, None] if ndim == 1 else done[name][None]
    weight = done.get("encoder.patch_embed.proj.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 3:
        scaled, bias = _for_our_pixels(weight)
        done |= {"encoder.patch_embed.proj.weight": scaled, "encoder.patch_embed.proj.bias": bias}
    return done


def _for_our_pixels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(D, 3, P, P) for pixels normalised as CLIP does -> weight and bias (D,) for ours: the same function.

    Where we read u = (v - m_ours) / s_ours, CLIP read u * s_ours / s_clip + (m_ours - m_clip) / s_clip: a scale that
    goes into the weight and a shift that goes into the bias, since without padding every output sees all of it. In
    fp64, rounded once.
    """
    ours_mean, ours_std, mean, std = (
        torch.tensor(each, dtype=torch.float64).view(3, 1, 1)
        for each in (IMAGENET_MEAN, IMAGENET_STD, CLIP_MEAN, CLIP_STD)
    )
    exact = weight.double()
    bias = (exact * ((ours_mean - mean) / std)).sum((1, 2, 3))
    return (exact * (ours_std / std)).to(weight.dtype), bias.to(weight.dtype)
