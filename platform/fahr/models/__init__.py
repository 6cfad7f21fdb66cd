"""Models that read faces: a masked autoencoder, and heads for age and survival on its encoder.

model = create("vit_base", patch=16, size=112, task="mae")    # task: "mae", "age" or "survival"
model = create("faceage", task="age")                         # the predecessor; create("timm:resnet18", ...): a rival
"""

from fahr.models.architecture import Architecture, Backbone, Decoder
from fahr.models.checkpoints import CheckpointConfig, load, save
from fahr.models.create import build, create
from fahr.models.heads import Predictor
from fahr.models.mae import MaeOptions, MaskedAutoencoder

__all__ = [
    "Architecture",
    "Backbone",
    "CheckpointConfig",
    "Decoder",
    "MaeOptions",
    "MaskedAutoencoder",
    "Predictor",
    "build",
    "create",
    "load",
    "save",
]
