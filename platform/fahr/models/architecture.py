"""The shape of a model: everything that has to be known before weights can be put into it.

Architecture.named("vit_base", patch=8, size=112, task="mae").num_patches    # 196
Backbone("timm:resnet18", "timm", 112, "age", 512)                           # a network that is no ViT of ours
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from fahr.errors import Refused, nearest
from fahr.objectives import age, hazard

# name -> width, depth, number of heads (Dosovitskiy 2021, table 1; Tiny and Small as in DeiT)
SIZES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}
TASKS = ("mae", "age", "survival")
ACTIVATIONS = ("gelu", "quick_gelu")  # quick: x * sigmoid(1.702 x), as in CLIP
HEADS = {**age.HEADS, "hazard": hazard.INTERVALS}  # what the outputs mean -> how many there are
ADDED = ("pre_norm", "activation", "head")  # keys that the first checkpoints lack: the standard ViT is meant
FAMILIES = ("faceage", "timm")  # of networks that are no ViT of ours
FACEAGE_SIZE = 160  # pixels: what its convention, faceage160, cuts


@dataclass(frozen=True)
class Decoder:
    """The light half of a masked autoencoder (docs/training.md), thrown away once the encoder has learned."""

    width: int = 512
    depth: int = 8
    num_heads: int = 16

    def __post_init__(self) -> None:
        _check_transformer("decoder", self.width, self.depth, self.num_heads)


@dataclass(frozen=True)
class Architecture:
    """A Vision Transformer for square faces of `size` pixels, cut into squares of `patch` pixels.

    Blocks that normalise before each branch, LayerNorm with eps 1e-6, biases in qkv (ViT-B standard, docs/training.md).
    `pre_norm` and `activation` are for encoders of the CLIP family; a decoder has GELU always.
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
    head: str = "value"  # what the outputs of task `age` or `survival` mean, one of HEADS

    def __post_init__(self) -> None:
        _check_task(self.task, self.head)
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
            needs = "needs a decoder. Give decoder=Decoder()"
            rule = needs if self.decoder is None else "takes no decoder. Leave it out, or give task 'mae'"
            raise Refused(f"task {self.task!r}: {rule}.")

    @classmethod
    def named(
        cls,
        name: str,
        *,
        patch: int = 16,
        size: int = 112,
        task: str = "mae",
        decoder: Decoder | None = None,
        head: str = "value",
    ) -> "Architecture":
        """One of SIZES. A masked autoencoder gets the standard decoder unless told otherwise."""
        if name not in SIZES:
            raise Refused(f"model {name!r}: not one of {', '.join(SIZES)}.{nearest(str(name), SIZES)}")
        width, depth, num_heads = SIZES[name]
        if task == "mae" and decoder is None:
            decoder = Decoder()
        return cls(name, width, depth, num_heads, patch, size, task, decoder=decoder, head=head)

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


@dataclass(frozen=True)
class Backbone:
    """A network that is no ViT of ours, with a head on its pooled features: FaceAge's, or one of timm's."""

    name: str  # `faceage`, or timm's name after `timm:`
    family: str  # one of FAMILIES
    size: int  # pixels a side
    task: str  # age or survival
    width: int  # of the features that the head reads
    head: str = "value"  # one of HEADS
    channels: float = 1.0  # of `faceage`: its filters, as a share of the published numbers

    depth: ClassVar[int] = 0  # blocks that layer decay could tell apart

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise Refused(f"family {self.family!r}: not one of {known}.{nearest(str(self.family), FAMILIES)}")
        _check_task(self.task, self.head)
        if self.task == "mae":
            raise Refused(
                f"{self.name}: only a Vision Transformer can leave out what is hidden, so task 'mae' is not for it. "
                f"Give one of {', '.join(SIZES)}, or task 'age' or 'survival'."
            )
        if not isinstance(self.name, str) or (self.family == "timm") != self.name.startswith("timm:"):
            raise Refused(f"name {self.name!r}: must be timm:NAME for the family timm, and without timm: for faceage.")
        for what, value in (("size", self.size), ("width", self.width)):
            _check_count(f"{self.name}: {what}", value)
        if self.family == "faceage" and self.size != FACEAGE_SIZE:
            raise Refused(
                f"{self.name}: reads faces of {FACEAGE_SIZE} px, not {self.size}. Align them with --convention "
                f"faceage160 --size {FACEAGE_SIZE}."
            )
        share = self.channels
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 8:
            raise Refused(f"channels {share!r}: must be a number above 0 and at most 8; 1.0 is the published network.")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Backbone":
        _check_keys("architecture", cls, found)
        return cls(**found)


AnyArchitecture = Architecture | Backbone


def architecture_from_json(found: Mapping[str, Any]) -> AnyArchitecture:
    """Of either kind: a Backbone says its family, and the first checkpoints had none."""
    return Backbone.from_json(found) if "family" in found else Architecture.from_json(found)


def _check_task(task: str, head: str) -> None:
    if task not in TASKS:
        raise Refused(f"task {task!r}: not one of {', '.join(TASKS)}.{nearest(str(task), TASKS)}")
    if head not in tuple(HEADS):
        raise Refused(f"head {head!r}: not one of {', '.join(HEADS)}.{nearest(str(head), HEADS)}")
    if head != "value" and task != (wanted := "survival" if head == "hazard" else "age"):
        raise Refused(f"head {head!r}: is for task {wanted!r}; task {task!r} has the head 'value'. Leave it out.")


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
