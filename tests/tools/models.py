"""Small calibrated models of random weights, for whatever scores people."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fahr.models import create, load, save

CALIBRATED: dict[str, dict[str, Any]] = {
    "age": {
        "conformal": {
            "pooled": {"n": 500.0, "coverage": 0.9, "half_width": 7.5, "fallback": 0.0},
            "50-59": {"n": 200.0, "coverage": 0.9, "half_width": 6.25, "fallback": 0.0},
        },
        "repeatability_sd_years": {"value": 2.0, "low": 1.5, "high": 2.6},
        "aging_rate_prior": {"long": {"mean": 1.0, "variance": 0.25, "observed_mean": 1.0, "people": 80.0}},
    },
    "survival": {
        "risk_mean": 0.1, "risk_sd": 0.5, "risk_percentiles": tuple(np.linspace(-3, 3, 101)),
        "quartile_cuts": (-0.7, 0.0, 0.7),
    },
}  # fmt: skip


def checkpoint(folder: Path, task: str, *, seed: int = 0, **config: Any) -> str:
    """A tiny network of random weights whose answers differ from face to face."""
    model = create("vit_tiny", patch=16, size=112, task=task, seed=seed)
    with torch.no_grad():
        weight = torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(seed))
        model.head.weight.copy_(weight * (0.5 if task == "age" else 0.05))
        model.head.bias.fill_(50.0 if task == "age" else 0.0)
    save(model, str(folder), config={"detector": "mtcnn", **CALIBRATED[task], **config})
    return str(folder)


def with_the_trunk_of(place: str, folder: Path) -> str:
    """A survival model on the encoder of another checkpoint."""
    model = create("vit_tiny", patch=16, size=112, task="survival", seed=9)
    model.encoder.load_state_dict(load(place).encoder.state_dict())
    save(model, str(folder), config={"detector": "mtcnn"})
    return str(folder)
