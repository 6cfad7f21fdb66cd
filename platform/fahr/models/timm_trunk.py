"""Any network of timm that makes one vector of an image, as a rival to ours: `create("timm:resnet18", task="age")`.

trunk = TimmTrunk(backbone("timm:resnet18", size=112, task="age"))
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from fahr.errors import Refused, nearest
from fahr.models.architecture import Backbone
from fahr.models.normalization import Normalization
from fahr.models.trunk import Trunk, check_size

PREFIX = "timm:"


class TimmTrunk(Trunk):
    def __init__(self, architecture: Backbone) -> None:
        super().__init__()
        self.architecture = architecture
        self.blocks = nn.ModuleList()  # timm's own lie in `net` and are not told apart
        self.net = _made(architecture.name.removeprefix(PREFIX), architecture.size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D)"""
        check_size(images, self.architecture.size)
        with self.rounded(images):
            made: Tensor = self.net(images)
        return made

    def pooled(self, images: Tensor) -> Tensor:
        made: Tensor = self(images)
        return made.float()

    @property
    def normalization(self) -> Normalization:
        """What its published weights were trained with."""
        told: Any = self.net.pretrained_cfg
        return Normalization(mean=tuple(told["mean"]), std=tuple(told["std"]))


def backbone(name: str, *, size: int, task: str, head: str = "value") -> Backbone:
    """The width is not told by every network, so two black images go through it."""
    Backbone(name, "timm", size, task, 1, head)  # refuses what is wrong with the rest
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net = _made(name.removeprefix(PREFIX), size).eval()
        try:
            features = net(torch.zeros(2, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise Refused(
                f"model {name!r}: can't read images of {size} px ({_first_line(error)}). Give a larger size, or "
                "another model."
            ) from error
    if features.shape[:1] != (2,) or features.ndim != 2:
        raise Refused(
            f"model {name!r}: makes {tuple(features.shape)} of two images, not a vector of each. Choose another model."
        )
    return Backbone(name, "timm", size, task, features.shape[1], head)


def _made(name: str, size: int) -> nn.Module:
    """Fresh, without a classifier. Networks whose positions depend on the size are told it."""
    base = name.split(".")[0]
    if not timm.is_model(name):  # which leaves out what timm would go and download, such as hf-hub:...
        raise Refused(
            f"model {PREFIX + name!r}: timm {timm.__version__} has none of this name."
            f"{nearest(base, timm.list_models())} See timm.list_models()."
        )
    try:
        return _called(name, img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _called(name)


def _called(name: str, **options: Any) -> nn.Module:
    try:
        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (RuntimeError, AssertionError, ValueError) as error:
        told = "".join(f" with {option} {value}" for option, value in options.items())
        raise Refused(
            f"model {PREFIX + name!r}: timm does not make it{told} ({_first_line(error)}). Give another size or model."
        ) from error
    return made


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
