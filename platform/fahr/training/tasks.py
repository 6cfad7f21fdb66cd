"""What a model is trained to do: a batch of faces -> one number for each. B = faces, S = their size in pixels.

A task holds the model and is what DDP, FSDP2 and the optimizer step get. Everything random in it (augmentation, mask,
drop path) is a function of the recipe's seed and the sample's position, so that neither the number of workers nor the
size of the micro-batches changes what a sample goes through.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import MaskedAutoencoder, Predictor
from fahr.models.masking import Mask, num_kept
from fahr.models.normalization import unit
from fahr.models.regions import patch_weights
from fahr.training.augment import Augmentation, augment
from fahr.training.drop_path import draw_drop_paths, use_keyed_drop_paths
from fahr.training.randomness import uniform
from fahr.training.recipe import Recipe

Labels = Mapping[str, NDArray[Any]]  # of each sample, in the order of the batch


class Task(nn.Module):
    """`forward` gives each sample's loss; or, when `pair_loss` is there, each sample's score."""

    pair_loss: Callable[[Tensor, Labels], Tensor] | None = None  # scores (n,) and labels of a global batch -> ()

    def __init__(
        self, model: MaskedAutoencoder | Predictor, recipe: Recipe, augmentation: Augmentation | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.seed = recipe.seed
        self.augmentation = augmentation
        self._drop_paths = use_keyed_drop_paths(model, recipe.drop_path) if recipe.drop_path else []
        if recipe.compile:
            blocks = [module for module in model.modules() if isinstance(module, Block)]
            if not blocks:
                raise Refused(f"compile: {model.architecture.name} has no transformer blocks to compile. Leave it out.")
            for block in blocks:  # one graph serves all blocks; a whole model takes minutes to compile
                block.compile()

    def forward(self, images: Tensor, positions: Tensor, labels: Labels) -> Tensor:
        """(B, S, S, 3) uint8, (B,) long -> (B,) fp32"""
        positions = positions.to(images.device)
        if self._drop_paths:
            draw_drop_paths(self._drop_paths, self.seed, positions)
        return self.values(self.prepared(images, positions), positions, labels)

    def values(self, images: Tensor, positions: Tensor, labels: Labels) -> Tensor:
        """(B, 3, S, S) normalised, (B,) -> (B,) fp32"""
        raise NotImplementedError

    @torch.no_grad()
    def prepared(self, images: Tensor, positions: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) fp32, augmented while training, normalised as the model wants it."""
        pixels = unit(images)
        if self.augmentation is not None and self.training:
            pixels = augment(pixels, positions, self.seed, self.augmentation)
        return self.model.prepare(pixels)


class Pretraining(Task):
    """Paint the hidden patches: the loss of `MaskedAutoencoder`, one for each face."""

    model: MaskedAutoencoder

    def __init__(self, model: MaskedAutoencoder, recipe: Recipe, augmentation: Augmentation | None = None) -> None:
        super().__init__(model, recipe, augmentation)
        moves = augmentation is not None and (augmentation.crop < 1 or augmentation.turn > 0 or augmentation.zoom > 0)
        if model.options.regions is not None and moves:
            raise Refused(
                f"regions {model.options.regions}: are where they are in whole, upright crops, and this augmentation "
                "moves them. Set crop to 1, turn and zoom to 0; or leave out the regions."
            )

    def values(self, images: Tensor, positions: Tensor, labels: Labels) -> Tensor:
        mask, wanted = keyed_mask(self.model, positions, self.seed)
        hidden = self.model.decoder(self.model.encoder(images, mask.keep), mask.keep, wanted)
        prediction = self.model.decoder.predict(hidden[:, mask.keep.shape[1] :])
        with torch.autocast(images.device.type, enabled=False):
            error = prediction.float() - self.model.target(images, wanted)
            losses: Tensor = error.square().mean((1, 2))
        return losses


def keyed_mask(model: MaskedAutoencoder, positions: Tensor, seed: int) -> tuple[Mask, Tensor]:
    """(B,) -> each sample's mask, as `random_mask` makes it, and (B, T) the hidden patches that are painted."""
    shape, options = model.architecture, model.options
    rank = uniform(seed, positions, "mask", shape.num_patches)
    if options.regions is not None:
        weights = patch_weights(options.regions, shape.size, shape.patch)
        rank = rank.log() / weights.to(rank)
    kept = num_kept(shape.num_patches, options.mask_ratio)
    order = torch.argsort(rank, dim=1, stable=True)  # the same on every device, ties included
    keep, masked = order[:, :kept].sort(1).values, order[:, kept:].sort(1).values
    mask = Mask(keep, masked, torch.cat([keep, masked], 1).argsort(1))
    if options.decoded == 1:
        return mask, masked
    number = max(1, int(options.decoded * masked.shape[1]))
    chosen = torch.argsort(uniform(seed, positions, "decoded", masked.shape[1]), dim=1, stable=True)[:, :number]
    return mask, masked.gather(1, chosen.sort(1).values)


class Prediction(Task):
    """A face judged alone: `loss(outputs (B, K), labels) -> (B,)`, of the K outputs of its head (1 for a number)."""

    model: Predictor

    def __init__(
        self,
        model: Predictor,
        recipe: Recipe,
        loss: Callable[[Tensor, Labels], Tensor],
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(model, recipe, augmentation)
        self._loss = loss

    def values(self, images: Tensor, positions: Tensor, labels: Labels) -> Tensor:
        return self._loss(self.model.outputs(images), labels)


class Comparison(Task):
    """One score a face, judged against the others of the global batch: `pair_loss(scores (n,), labels) -> ()`."""

    model: Predictor

    def __init__(
        self,
        model: Predictor,
        recipe: Recipe,
        pair_loss: Callable[[Tensor, Labels], Tensor],
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(model, recipe, augmentation)
        self.pair_loss = pair_loss

    def values(self, images: Tensor, positions: Tensor, labels: Labels) -> Tensor:
        scores: Tensor = self.model(images)
        return scores


def absolute_error(column: str) -> Callable[[Tensor, Labels], Tensor]:
    """|prediction - label|, in the label's unit (docs/age.md), of a head with one output."""

    def loss(outputs: Tensor, labels: Labels) -> Tensor:
        wanted = torch.from_numpy(np.asarray(labels[column], np.float32)).to(outputs.device)
        return (outputs - wanted[:, None]).abs().squeeze(1)

    return loss
