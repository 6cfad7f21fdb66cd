"""What a masked autoencoder makes of the parts of a face that it can't see, as a picture and in decibels.

Image.fromarray(draw(model, faces, seed=0)).save("reconstructions.png")
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fahr.errors import Refused
from fahr.models.mae import MaskedAutoencoder
from fahr.models.normalization import normalise, to_bytes

Pixels = NDArray[np.uint8]
COLUMNS = ("original", "masked", "reconstruction", "pasted")
_GREY, _GAP_PX, _TILE_PX, _LINE_PX = 127, 4, 112, 16


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """All pictures (N, S, S, 3)."""

    faces: Pixels  # what went in
    painted: Pixels  # the model's, everywhere
    hidden: NDArray[np.bool_]  # (N, S, S) pixels that the model did not see
    patch: int  # px
    norm_pix: bool

    @property
    def masked(self) -> Pixels:
        return np.where(self.hidden[..., None], np.uint8(_GREY), self.faces)

    @property
    def pasted(self) -> Pixels:
        """The visible pixels as they are, the others as painted."""
        return np.where(self.hidden[..., None], self.painted, self.faces)

    def psnr(self) -> NDArray[np.float64]:
        """(N,) dB over the hidden pixels: 10 log10(255^2 / mean squared error). Infinite where all are right."""
        return self._psnr(self.painted)

    def psnr_of_means(self) -> NDArray[np.float64]:
        """(N,) dB if every patch were painted in its own mean colour: what a model has to beat to have drawn a thing.

        With `norm_pix` the mean colour is given to the model as well.
        """
        count, side = self.faces.shape[:2]
        squares = self.faces.reshape(count, side // self.patch, self.patch, side // self.patch, self.patch, 3)
        means = np.broadcast_to(squares.mean((2, 4), keepdims=True), squares.shape)
        return self._psnr(means.reshape(self.faces.shape))

    def _psnr(self, painted: NDArray[np.generic]) -> NDArray[np.float64]:
        squares = (painted.astype(np.float64) - self.faces) ** 2
        error = squares.mean(-1).sum((1, 2), where=self.hidden) / self.hidden.sum((1, 2))
        with np.errstate(divide="ignore"):
            ratios: NDArray[np.float64] = 10 * np.log10(255**2 / error)
        return ratios


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, faces: Pixels, seed: int) -> Reconstruction:
    """(N, S, S, 3) uint8 RGB. `seed` decides what is hidden, the same on every device."""
    side, patch = model.architecture.size, model.architecture.patch
    if faces.dtype != np.uint8 or faces.shape[1:] != (side, side, 3) or not len(faces):
        raise Refused(
            f"faces of type {faces.dtype} and shape {faces.shape}: at least one face is needed, uint8 and "
            f"(N, {side}, {side}, 3). Align photos to {side} px."
        )
    device = next(model.parameters()).device
    images = normalise(torch.from_numpy(np.ascontiguousarray(faces)).to(device))
    mask = model.draw_mask(len(faces), torch.Generator().manual_seed(seed), device)
    painted = to_bytes(model.paint(images, mask))
    removed = mask.removed().cpu().numpy().reshape(len(faces), side // patch, side // patch)
    hidden = removed.repeat(patch, 1).repeat(patch, 2)
    return Reconstruction(faces, painted, hidden, patch, model.options.norm_pix)


def draw(model: MaskedAutoencoder, faces: Pixels, seed: int) -> Pixels:
    """(N, S, S, 3) uint8 RGB -> one RGB picture: a row for each face, columns COLUMNS, a caption below."""
    made = reconstruct(model, faces, seed)
    enlarged = max(1, -(-_TILE_PX // faces.shape[1]))  # small faces are shown with larger pixels
    columns = [
        each.repeat(enlarged, 1).repeat(enlarged, 2) for each in (made.faces, made.masked, made.painted, made.pasted)
    ]
    step = columns[0].shape[1] + _GAP_PX
    width = len(columns) * step + _GAP_PX
    font = ImageFont.load_default(_LINE_PX * 0.7)
    lines = _wrapped(caption(made), font, width - 2 * _GAP_PX)
    below = _LINE_PX + len(faces) * step + _GAP_PX
    picture = Image.new("RGB", (width, below + len(lines) * _LINE_PX + _GAP_PX), "white")
    pen = ImageDraw.Draw(picture)
    for number, (name, column) in enumerate(zip(COLUMNS, columns, strict=True)):
        left = _GAP_PX + number * step
        pen.text((left, 1), name, "black", font)
        for row, face in enumerate(column):
            picture.paste(Image.fromarray(face), (left, _LINE_PX + _GAP_PX + row * step))
    for number, line in enumerate(lines):
        pen.text((_GAP_PX, below + number * _LINE_PX), line, "black", font)
    return np.array(picture)


def caption(made: Reconstruction) -> str:
    text = (
        f"{made.hidden.mean():.0%} of each face is hidden. Median over {len(made.faces)} faces of the PSNR on hidden "
        f"pixels: {np.median(made.psnr()):.1f} dB; each patch in its mean colour: "
        f"{np.median(made.psnr_of_means()):.1f} dB. Seen patches are not trained for: trust 'pasted' there."
    )
    if made.norm_pix:
        text += " The model predicts patches without their mean and spread: both are taken from the true patch."
    return text


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    return textwrap.wrap(text, int(width_px * len(text) / font.getlength(text) * 0.95))
