"""The masked autoencoder: hide most of a face, paint it back. Clean-room from the published recipe (docs/training.md).

B = images, N = patches, K = visible, M = masked, T = decoded of these, D = encoder width, d = decoder width,
P = patch in pixels.
"""

from typing import NamedTuple

import torch
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from fahr.config import Options, option
from fahr.models.architecture import Architecture
from fahr.models.encoder import Encoder, at, make_blocks
from fahr.models.masking import Mask, num_kept, random_mask, random_subset
from fahr.models.normalization import IMAGENET
from fahr.models.patches import cut, join, pixels
from fahr.models.positions import sincos_table
from fahr.models.regions import patch_weights


class MaeOptions(Options):
    mask_ratio: float = option(0.75, gt=0, lt=1, help="share of the patches that are hidden", unit="share")
    norm_pix: bool = option(True, help="predict each patch relative to its own mean and spread", off="false")
    # Below 1 the decoder is shorter and the loss the mean over a random choice: for given predictions an unbiased
    # estimate. The predictions do change, since painted patches attend to each other (tests/models/test_mae.py).
    decoded: float = option(1.0, gt=0, le=1, help="share of the hidden patches that are painted", off="1", unit="share")
    regions: dict[str, float] | None = option(
        None, help="region -> weight, masked more often the higher it is; others have 1", off="none"
    )


class Output(NamedTuple):
    loss: Tensor  # (), fp32
    prediction: Tensor  # (B, T, P * P * 3) in the order row, column, channel; in patch units with norm_pix
    decoded: Tensor  # (B, T) which patches these are
    mask: Mask


class PixelDecoder(nn.Module):
    pos_embed: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape = architecture.decoder
        assert shape is not None
        self.embed = nn.Linear(architecture.width, shape.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.register_buffer("pos_embed", sincos_table(shape.width, architecture.grid))
        self.blocks = make_blocks(shape.width, shape.depth, shape.num_heads, architecture.mlp_ratio)
        self.norm = LayerNorm(shape.width)
        self.predict = nn.Linear(shape.width, architecture.patch**2 * 3)

    def forward(self, encoded: Tensor, keep: Tensor, wanted: Tensor) -> Tensor:
        """(B, 1 + K, D), (B, K) and (B, T) of patch numbers -> (B, K + T, d) after the last norm, CLS dropped.

        Attention does not mind the order of tokens, their positions tell where they are: so visible patches come
        first, those to be painted last, and nothing is shuffled back.
        """
        embedded = self.embed(encoded)
        seen = torch.cat([embedded[:, :1] + self.pos_embed[:, :1], embedded[:, 1:] + at(self.pos_embed, keep)], 1)
        blank = self.mask_token + at(self.pos_embed, wanted)
        tokens = torch.cat([seen, blank], 1)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens[:, 1:])
        return normed


class MaskedAutoencoder(nn.Module):
    normalization = IMAGENET  # whatever it learns from: `to_bytes` undoes it

    def __init__(self, architecture: Architecture, options: MaeOptions | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.options = options or MaeOptions()
        num_kept(architecture.num_patches, self.options.mask_ratio)  # these two refuse what can't be done, before
        self._weights()  # hours are spent
        self.encoder = Encoder(architecture)
        self.decoder = PixelDecoder(architecture)

    def prepare(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) fp32 in 0..1 -> the same shape, normalised."""
        return self.normalization.apply(pixels)

    def forward(self, images: Tensor, mask: Mask | None = None, generator: torch.Generator | None = None) -> Output:
        """(B, 3, S, S) normalised -> the loss over the decoded patches. `generator` decides mask and choice."""
        if mask is None:
            mask = self.draw_mask(len(images), generator, images.device)
        wanted = mask.masked
        if self.options.decoded < 1:
            number = max(1, int(self.options.decoded * wanted.shape[1]))
            wanted = random_subset(wanted, number, generator)
        hidden = self.decoder(self.encoder(images, mask.keep), mask.keep, wanted)
        prediction = self.decoder.predict(hidden[:, mask.keep.shape[1] :])
        loss = reconstruction_loss(prediction, self.target(images, wanted))
        return Output(loss, prediction, wanted, mask)

    def draw_mask(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Mask:
        patches, ratio = self.architecture.num_patches, self.options.mask_ratio
        return random_mask(batch, patches, ratio, generator, self._weights(), device)

    def _weights(self) -> Tensor | None:
        regions, shape = self.options.regions, self.architecture
        return patch_weights(regions, shape.size, shape.patch) if regions is not None else None

    def target(self, images: Tensor, which: Tensor | None = None) -> Tensor:
        """What is to be predicted of patches `which` (B, T), or of all: (B, T, P * P * 3) fp32."""
        wanted = pixels(cut(images, self.architecture.patch, which)).float()
        if not self.options.norm_pix:
            return wanted
        mean, sd = patch_statistics(wanted)
        return (wanted - mean) / sd

    def paint(self, images: Tensor, mask: Mask) -> Tensor:
        """(B, 3, S, S) normalised -> (B, 3, S, S) fp32: what the model makes of every patch, seen or not.

        With `norm_pix` the model says nothing of a patch's mean and spread: they are those of the true patch.
        """
        hidden = self.decoder(self.encoder(images, mask.keep), mask.keep, mask.masked)
        painted = self.decoder.predict(hidden).float()
        painted = painted.gather(1, mask.ids_restore[..., None].expand_as(painted))
        if self.options.norm_pix:
            mean, sd = patch_statistics(pixels(cut(images, self.architecture.patch)).float())
            painted = painted * sd + mean
        return join(painted)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, V) fp32 -> mean and sqrt(unbiased variance + 1e-6) of each patch, both (B, T, 1)."""
    mean = patches.mean(-1, keepdim=True)
    return mean, (patches.var(-1, keepdim=True, correction=1) + 1e-6).sqrt()


def reconstruction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, T, V) twice -> () fp32: squared error, mean over values and patches. Autocast can't reach it."""
    with torch.autocast(prediction.device.type, enabled=False):
        return (prediction.float() - target.float()).square().mean()
