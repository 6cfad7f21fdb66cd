"""A model of each task with every weight random, small enough to save and load a hundred times."""

from typing import Any

import torch
from torch import Tensor

from fahr.models import Architecture, Decoder, MaeOptions, MaskedAutoencoder, Predictor, build

# What a config.json may know beside what `save` works out.
KNOWN: dict[str, Any] = {
    "detector": "mtcnn",
    "data_digest": "sha256:aa",
    "parent_checkpoint": "sha256:bb",
    "label_stats": {"n": 1000, "mean": 51.5, "sd": 17.0, "min": 18, "max": 99},
    "metrics": {"mae": 5.25, "by_decade": {"20-29": 4.0, "90-99": None}},
    "bias_correction": {"slope": 0.9, "intercept": 5.0},
    "conformal": {"all": {"n": 500, "half_width": 9.5}},
    "risk_mean": -0.1,
    "risk_sd": 1.1,
    "risk_percentiles": [-2.0, -0.5, 0.0, 0.0, 1.5],
    "quartile_cuts": [-0.5, 0.0, 0.7],
    "repeatability_sd_years": {"value": 1.8, "low": 1.5, "high": 2.1},
    "aging_rate_prior": {"short": {"mean": 1.0, "sd": 0.4}},
    "ood": {"threshold": 3.5},
}


def small(task: str, seed: int = 0, size: int = 32) -> MaskedAutoencoder | Predictor:
    """Every weight random, norms, biases and positions too."""
    decoder = Decoder(32, 2, 4) if task == "mae" else None
    options = MaeOptions(mask_ratio=0.5, norm_pix=False) if task == "mae" else None
    model = build(Architecture("vit_64x2x4", 64, 2, 4, 8, size, task, decoder=decoder), options=options)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model.eval()


def images(size: int = 32) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        if isinstance(model, Predictor):
            return model(images())
        made = model(images(), generator=torch.Generator().manual_seed(5))
        return torch.cat([made.prediction.flatten(), made.loss[None]])


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def timm_names(model: torch.nn.Module) -> dict[str, Tensor]:
    """Its weights as timm calls them."""
    return {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}
