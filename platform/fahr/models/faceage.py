"""FaceAge (docs/models.md): Inception-ResNet v1, a hidden layer, one number. Clean-room from the published definition.

Every convolution carries the name of its Keras layer, by which `checkpoints.faceage` finds the weights of the public
`.h5`. Layers go by the names of facenet's public definition (Szegedy 2016 for the blocks, Sandberg for the network).

C = filters of a layer, E = embedding: 128, or 512 in the other version that the authors name.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fahr.errors import Refused
from fahr.models.architecture import Backbone
from fahr.models.trunk import Trunk, check_size

EMBEDDINGS = {"faceage": 128, "faceage-512": 512}  # name -> E
CONVENTION, DETECTOR = "faceage160", "mtcnn"
DROPOUT = 0.2  # before the embedding, while training
EPS, MOMENTUM = 0.001, 0.005  # of batch norms; Keras calls the latter .995, the share that stays

# A branch is its layers (name, C), first to last; the kernel stands at the end of the name.
Branch = tuple[tuple[str, int], ...]
BLOCK35: tuple[Branch, ...] = (
    (("Conv2d_1x1", 32),),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32)),
    (("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32), ("Conv2d_0c_3x3", 32)),
)
BLOCK17: tuple[Branch, ...] = (
    (("Conv2d_1x1", 128),),
    (("Conv2d_0a_1x1", 128), ("Conv2d_0b_1x7", 128), ("Conv2d_0c_7x1", 128)),
)
BLOCK8: tuple[Branch, ...] = (
    (("Conv2d_1x1", 192),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x3", 192), ("Conv2d_0c_3x1", 192)),
)
MIXED_6A: tuple[Branch, ...] = (
    (("Conv2d_1a_3x3", 384),),
    (("Conv2d_0a_1x1", 192), ("Conv2d_0b_3x3", 192), ("Conv2d_1a_3x3", 256)),
)
MIXED_7A: tuple[Branch, ...] = (
    (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 384)),
    (("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 256)),
    (("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 256), ("Conv2d_1a_3x3", 256)),
)
# How much of a block's branches is added to what came in; the last block adds all and has no ReLU.
SCALES = {"Block35": 0.17, "Block17": 0.10, "Block8": 0.20, "Block8_6": 1.0}


def scale_of(block: str) -> float:
    """`Block35_3` -> 0.17"""
    return SCALES.get(block, SCALES[block.split("_")[0]])


def filters(published: int, channels: float) -> int:
    return max(1, round(published * channels))


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, keras: str, into: int, out: int, *, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        self.keras = keras  # the name of the layer; that of its norm has _BatchNorm behind it
        high, wide = (int(side) for side in keras.rpartition("_")[2].split("x"))
        padding = (high // 2, wide // 2) if same else 0
        self.conv = nn.Conv2d(into, out, (high, wide), stride, padding, bias=False)
        self.norm = _fixed_scale(nn.BatchNorm2d(out, EPS, MOMENTUM))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


def _fixed_scale(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Without a scale (gamma), as all batch norms of this network: it stays at 1 and does not learn."""
    norm.weight.requires_grad_(False)
    return norm


def _branch(block: str, number: int, layers: Branch, into: int, channels: float) -> nn.Sequential:
    """All keep the size of the picture but those called 1a, which halve it."""
    widths = [into, *(filters(out, channels) for _, out in layers)]
    made = []
    for place, (leaf, _) in enumerate(layers):
        halves = leaf.startswith("Conv2d_1a")
        keras = f"{block}_Branch_{number}_{leaf}"
        made.append(ConvNorm(keras, *widths[place : place + 2], stride=1 + halves, same=not halves))
    return nn.Sequential(*made)


def _ends(branches: Sequence[Branch], channels: float) -> int:
    return sum(filters(branch[-1][1], channels) for branch in branches)


class Residual(nn.Module):
    """x + scale * (the branches side by side, mixed by a 1x1 convolution with bias), then ReLU."""

    def __init__(self, name: str, branches: Sequence[Branch], into: int, channels: float, *, linear: bool) -> None:
        super().__init__()
        self.scale, self.linear = scale_of(name), linear
        self.branches = nn.ModuleList(_branch(name, n, each, into, channels) for n, each in enumerate(branches))
        self.up = nn.Conv2d(_ends(branches, channels), into, 1)
        self.keras = f"{name}_Conv2d_1x1"  # of `up`

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + self.scale * self.up(torch.cat([branch(x) for branch in self.branches], 1))
        return mixed if self.linear else functional.relu(mixed)


class Reduction(nn.Module):
    """Half the size: strided branches and a maximum, side by side."""

    def __init__(self, name: str, branches: Sequence[Branch], into: int, channels: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(name, n, each, into, channels) for n, each in enumerate(branches))
        self.out = _ends(branches, channels) + into

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(branch(x) for branch in self.branches), functional.max_pool2d(x, 3, 2)], 1)


class FaceAgeTrunk(Trunk):
    """Features are what the last Dense(1) reads: the hidden layer after its batch norm."""

    def __init__(self, architecture: Backbone) -> None:
        super().__init__()
        self.architecture = architecture
        self.blocks = nn.ModuleList()
        share, wide = architecture.channels, architecture.width
        self.stem = _stem(share)
        into = filters(256, share)
        self.block35 = _repeated("Block35", 5, BLOCK35, into, share)
        self.mixed_6a = Reduction("Mixed_6a", MIXED_6A, into, share)
        self.block17 = _repeated("Block17", 10, BLOCK17, self.mixed_6a.out, share)
        self.mixed_7a = Reduction("Mixed_7a", MIXED_7A, self.mixed_6a.out, share)
        self.block8 = _repeated("Block8", 6, BLOCK8, self.mixed_7a.out, share)
        self.dropout = nn.Dropout(DROPOUT)
        self.bottleneck = nn.Linear(self.mixed_7a.out, wide, bias=False)
        self.bottleneck_norm = _fixed_scale(nn.BatchNorm1d(wide, EPS, MOMENTUM))
        self.hidden = nn.Linear(wide, wide)
        self.hidden_norm = _fixed_scale(nn.BatchNorm1d(wide, EPS, MOMENTUM))
        self._frozen: tuple[nn.Module, ...] = ()  # whose statistics stay too

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 160, 160) normalised -> (B, C) fp32, the mean over the last block's 3 x 3 places."""
        check_size(images, self.architecture.size)
        with self.rounded(images):
            x = self.mixed_6a(self.block35(self.stem(images)))
            x = self.block8(self.mixed_7a(self.block17(x)))
        means: Tensor = x.float().mean((2, 3))
        return means

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, 160, 160) normalised -> (B, E) fp32"""
        means: Tensor = self(images)
        with torch.autocast(images.device.type, enabled=False):
            embedding = self.bottleneck_norm(self.bottleneck(self.dropout(means)))
            features: Tensor = self.hidden_norm(functional.relu(self.hidden(embedding)))
        return features

    def exact(self) -> list[nn.Module]:
        return [self.bottleneck, self.hidden]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def freeze(self, parts: tuple[nn.Module, ...]) -> None:
        self._frozen = parts
        for part in parts:
            part.requires_grad_(False).eval()

    def keras_names(self) -> dict[str, tuple[str, str]]:
        """Our tensor -> Keras' layer and its weight. The two layers behind the embedding have no name of their own in
        the file, nor has the head: `checkpoints.faceage` tells them by shape."""
        named: dict[str, tuple[str, str]] = {}
        for path, module in self.named_modules():
            if isinstance(module, ConvNorm):
                named[f"{path}.conv.weight"] = module.keras, "kernel"
                named |= norm_names(f"{path}.norm", f"{module.keras}_BatchNorm")
            elif isinstance(module, Residual):
                named[f"{path}.up.weight"] = module.keras, "kernel"
                named[f"{path}.up.bias"] = module.keras, "bias"
        named["bottleneck.weight"] = "Bottleneck", "kernel"
        return named | norm_names("bottleneck_norm", "Bottleneck_BatchNorm")


def norm_names(path: str, layer: str) -> dict[str, tuple[str, str]]:
    ours = ("weight", "bias", "running_mean", "running_var")
    theirs = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{path}.{mine}": (layer, other) for mine, other in zip(ours, theirs, strict=True)}


def _stem(channels: float) -> nn.Sequential:
    """160 px -> 17: 79, 77, 77, 38, 38, 36, 17."""
    widths = [3, *(filters(each, channels) for each in (32, 32, 64, 80, 192, 256))]
    pairs = [(widths[n], widths[n + 1]) for n in range(6)]
    return nn.Sequential(
        ConvNorm("Conv2d_1a_3x3", *pairs[0], stride=2, same=False),
        ConvNorm("Conv2d_2a_3x3", *pairs[1], same=False),
        ConvNorm("Conv2d_2b_3x3", *pairs[2]),
        nn.MaxPool2d(3, 2),
        ConvNorm("Conv2d_3b_1x1", *pairs[3]),
        ConvNorm("Conv2d_4a_3x3", *pairs[4], same=False),
        ConvNorm("Conv2d_4b_3x3", *pairs[5], stride=2, same=False),
    )


def _repeated(kind: str, count: int, branches: Sequence[Branch], into: int, channels: float) -> nn.Sequential:
    names = [f"{kind}_{number}" for number in range(1, count + 1)]
    return nn.Sequential(*(Residual(each, branches, into, channels, linear=each == "Block8_6") for each in names))


def freeze_like_the_paper(trunk: nn.Module) -> None:
    """Learn from Inception block B1 (the first Block17) on: 282 of the 426 Keras layers, and the head.

    The authors fix layers 0 to 143 and set 145 and later to learn; layer 144, left out, learns by default. Fixed batch
    norms keep their mean and variance too, as in TensorFlow 2.
    """
    if not isinstance(trunk, FaceAgeTrunk):
        raise Refused(
            f"{type(trunk).__name__}: only FaceAge's network has these blocks. Freeze parts of another one yourself, "
            "with requires_grad_(False)."
        )
    trunk.freeze((trunk.stem, trunk.block35, trunk.mixed_6a))
