"""The shape of a model: everything that has to be known before weights can be put into it.

Architecture.named("vit_base", patch=8, size=112, task="mae").num_patches    # 196
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fahr.errors import Refused, nearest

# name -> width, depth, number of heads (Dosovitskiy 2021, table 1; Tiny and Small as in DeiT)
SIZES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}
TASKS = ("mae", "age", "survival")
ACTIVATIONS = ("gelu", "quick_gelu")  # quick: x * sigmoid(1.702 x), as in CLIP
ADDED = ("pre_norm", "activation")  # keys that the first checkpoints lack: the standard ViT is meant


@dataclass(frozen=True)
class Decoder:
    """The light half of a masked autoencoder (science.md 3.1), thrown away once the encoder has learned."""

    width: int = 512
    depth: int = 8
    num_heads: int = 16

    def __post_init__(self) -> None:
        _check_transformer("decoder", self.width, self.depth, self.num_heads)


@dataclass(frozen=True)
class Architecture:
    """A Vision Transformer for square faces of `size` pixels, cut into squares of `patch` pixels.

    Blocks that normalise before each branch, LayerNorm with eps 1e-6, biases in qkv (ViT-B standard, science.md 3.1).
    The last two fields are for encoders of the CLIP family; a decoder has GELU always.
    """

    name: str
    width: int
    depth: int
    num_heads: int
    patch: int
    size: int
    task: str  # one of TASKS
    mlp_ratio: float = 4.0
    decoder: Decoder | None = None  # of task `mae`, and of no other
    pre_norm: bool = False  # one more LayerNorm, on the tokens before the first block
    activation: str = "gelu"  # between the two layers of an MLP, one of ACTIVATIONS

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise Refused(f"task {self.task!r}: not one of {', '.join(TASKS)}.{nearest(str(self.task), TASKS)}")
        _check_transformer(self.name, self.width, self.depth, self.num_heads)
        for what, value in (("patch", self.patch), ("size", self.size)):
            _check_count(what, value)
        if self.size % self.patch:
            fit = [n for n in range(2, self.size + 1) if self.size % n == 0]
            low = max(1, self.size // self.patch) * self.patch
            raise Refused(
                f"patch {self.patch}: does not divide the size of {self.size} px. Give a patch that does (such as "
                f"{min(fit, key=lambda n: abs(n - self.patch), default=1)}), or a size of {low} or "
                f"{low + self.patch} px."
            )
        if isinstance(self.mlp_ratio, bool) or not isinstance(self.mlp_ratio, int | float) or not self.mlp_ratio > 0:
            raise Refused(f"mlp_ratio {self.mlp_ratio!r}: must be a number above 0, 4.0 in every standard ViT.")
        if not isinstance(self.pre_norm, bool):
            raise Refused(f"pre_norm {self.pre_norm!r}: must be true or false; false in every standard ViT.")
        if self.activation not in ACTIVATIONS:
            raise Refused(
                f"activation {self.activation!r}: not one of {', '.join(ACTIVATIONS)}. Give gelu for a standard ViT, "
                f"quick_gelu for one of CLIP.{nearest(str(self.activation), ACTIVATIONS)}"
            )
        if (self.task == "mae") != (self.decoder is not None):
            asked = "has none" if self.decoder is None else "has one"
            raise Refused(f"task {self.task!r} {asked} of the decoders: task 'mae' needs a decoder, no other may.")

    @classmethod
    def named(
        cls, name: str, *, patch: int = 16, size: int = 112, task: str = "mae", decoder: Decoder | None = None
    ) -> "Architecture":
        """One of SIZES. A masked autoencoder gets the standard decoder unless told otherwise."""
        if name not in SIZES:
            raise Refused(f"model {name!r}: not one of {', '.join(SIZES)}.{nearest(str(name), SIZES)}")
        width, depth, num_heads = SIZES[name]
        if task == "mae" and decoder is None:
            decoder = Decoder()
        return cls(name, width, depth, num_heads, patch, size, task, decoder=decoder)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.size // self.patch

    @property
    def num_patches(self) -> int:
        return self.grid**2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Architecture":
        """The inverse of `to_json`. Refused: unknown keys, and missing ones but for ADDED."""
        _check_keys("architecture", cls, found, ADDED)
        values = dict(found)
        if values.get("decoder") is not None:
            _check_keys("decoder", Decoder, values["decoder"])
            values["decoder"] = Decoder(**values["decoder"])
        return cls(**values)


def _check_keys(what: str, kind: type, found: Any, optional: tuple[str, ...] = ()) -> None:
    if not isinstance(found, Mapping):
        raise Refused(f"{what} {found!r}: must be a mapping, as `Architecture.to_json` writes it.")
    names = [field.name for field in fields(kind)]
    unknown = [str(key) for key in found if key not in names]
    needed = [name for name in names if name not in optional]
    missing = [name for name in needed if name not in found]
    if unknown:
        raise Refused(f"{what}: unknown key {unknown[0]!r}; known are {', '.join(names)}.{nearest(unknown[0], names)}")
    if missing:
        raise Refused(f"{what}: lacks {', '.join(missing)}. Every key is needed: {', '.join(needed)}.")


def _check_count(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refused(f"{what} {value!r}: must be a whole number of at least 1.")


def _check_transformer(name: str, width: int, depth: int, num_heads: int) -> None:
    for what, value in (("width", width), ("depth", depth), ("num_heads", num_heads)):
        _check_count(f"{name}: {what}", value)
    if width % num_heads:
        raise Refused(
            f"{name}: width {width} must be a multiple of its {num_heads} heads. Give another number of heads."
        )
    if width % 4:
        raise Refused(f"{name}: width {width} must be a multiple of 4, for sines and cosines on two axes.")
