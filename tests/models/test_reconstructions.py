"""A small model that learns faces by heart, and the picture of what it sees in the gaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.errors import Refused
from fahr.faces.alignment import align
from fahr.models import Decoder, MaeOptions, MaskedAutoencoder, create
from fahr.models.mae import patch_statistics
from fahr.models.normalization import normalise, to_bytes
from fahr.models.patches import cut, join, pixels
from fahr.models.reconstructions import Reconstruction, caption, draw, reconstruct

Pixels = NDArray[np.uint8]
SIZE = 64


@pytest.fixture(scope="module")
def faces() -> Pixels:
    """(64, 64, 64, 3): people of 20 to 90, cut to the template."""
    people = [
        render_face(
            seed=0,
            subject=number,
            photo=0,
            apparent_age=20 + 70 * number / 63,
            frailty=0.0,
            sex="female" if number % 2 else "male",
            options=CohortOptions(size_px=128),
        )
        for number in range(64)
    ]
    return align([face.image for face in people], np.stack([face.landmarks for face in people]), SIZE).faces


def model_of(size: int = SIZE, **options: Any) -> MaskedAutoencoder:
    decoder = Decoder(192, 2, 3)
    return create("vit_tiny", patch=16, size=size, decoder=decoder, options=MaeOptions(**options), seed=0)


def learned(faces: Pixels, steps: int) -> MaskedAutoencoder:
    model, images, generator = model_of(), normalise(torch.from_numpy(faces)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    people, batch = len(faces), min(32, len(faces))
    order = torch.cat([torch.randperm(people, generator=generator) for _ in range(steps * batch // people)])
    for chosen in order.view(-1, batch):
        optimizer.zero_grad()
        model(images[chosen], generator=generator).loss.backward()
        optimizer.step()
        schedule.step()
    return model


def average_face(model: MaskedAutoencoder, faces: Pixels) -> Pixels:
    """The mean of all normalised patches, in the true mean and spread: what a model says that looks at nothing."""
    images = normalise(torch.from_numpy(faces))
    patches = pixels(cut(images, 16))
    mean, sd = patch_statistics(patches)
    return to_bytes(join(model.target(images).mean(0, keepdim=True) * sd + mean))


def slow_psnr(made: Reconstruction, painted: NDArray[Any]) -> list[float]:
    found = []
    for face, guess, hidden in zip(made.faces, painted, made.hidden, strict=True):
        error = (face[hidden].astype(float) - guess[hidden].astype(float)) ** 2
        found.append(20 * np.log10(255) - 10 * np.log10(error.mean()))
    return found


@pytest.mark.parametrize(
    ("people", "steps", "over_means_db", "over_average_db"),
    [(8, 240, 3, 1), pytest.param(64, 1200, 7, 5, marks=pytest.mark.evidence)],
)
def test_a_tiny_model_learns_faces_by_heart(
    faces: Pixels, tmp_path: Path, people: int, steps: int, over_means_db: float, over_average_db: float
) -> None:
    """On masks that it was not trained with, and against two painters that know no single face."""
    faces = faces[:: 64 // people]
    model = learned(faces, steps)
    made = reconstruct(model, faces, seed=1)
    over_means = made.psnr() - made.psnr_of_means()
    over_average = made.psnr() - slow_psnr(made, average_face(model, faces))
    picture = tmp_path / "reconstructions.png"
    Image.fromarray(draw(model, faces[:: -(-people // 6)], seed=1)).save(picture)
    print(f"{np.median(over_means):.2f} dB over means, {np.median(over_average):.2f} over the average face: {picture}")
    assert np.median(over_means) > over_means_db and over_means.min() > 0
    assert np.median(over_average) > over_average_db


# The picture


@pytest.mark.parametrize("norm_pix", [True, False])
def test_columns_are_what_they_say(faces: Pixels, norm_pix: bool) -> None:
    model = model_of(norm_pix=norm_pix)
    made, picture = reconstruct(model, faces[:3], seed=0), draw(model, faces[:3], seed=0)
    tile = [slice(20 + 132 * row, 20 + 132 * row + 128) for row in range(3)]
    for row in range(3):
        shown = [picture[tile[row], left : left + 128] for left in (4, 136, 268, 400)]
        assert all(np.array_equal(each, each[::2, ::2].repeat(2, 0).repeat(2, 1)) for each in shown)
        original, masked, painted, pasted = (each[::2, ::2] for each in shown)
        hidden = made.hidden[row]
        assert hidden.sum() == 12 * 256
        assert np.array_equal(original, faces[row]) and np.array_equal(painted, made.painted[row])
        assert (masked[hidden] == 127).all() and np.array_equal(masked[~hidden], faces[row][~hidden])
        assert np.array_equal(pasted[hidden], painted[hidden]) and np.array_equal(pasted[~hidden], faces[row][~hidden])
    below = picture[20 + 3 * 132 :]
    assert (below < 128).any()  # the caption is there
    assert (picture[:, -4:] == 255).all() and (picture[-4:] == 255).all()  # and not cut off


def test_the_caption_says_what_the_model_was_given(faces: Pixels) -> None:
    made = reconstruct(model_of(), faces[:3], seed=0)
    assert "both are taken from the true patch" in caption(made)
    assert f"{np.median(made.psnr()):.1f} dB" in caption(made) and "75% of each face" in caption(made)
    assert "true patch" not in caption(reconstruct(model_of(norm_pix=False), faces[:3], seed=0))


def test_psnr_is_the_formula_over_hidden_pixels(faces: Pixels) -> None:
    made = reconstruct(model_of(), faces[:5], seed=0)
    assert made.psnr() == pytest.approx(slow_psnr(made, made.painted))
    means = faces[:5].astype(float)
    for top in range(0, SIZE, 16):
        for left in range(0, SIZE, 16):
            square = means[:, top : top + 16, left : left + 16]
            square[:] = square.mean((1, 2), keepdims=True)
    assert made.psnr_of_means() == pytest.approx(slow_psnr(made, means))
    assert np.isposinf(Reconstruction(made.faces, made.faces, made.hidden, 16, True).psnr()).all()


def test_a_seed_decides_what_is_hidden(faces: Pixels) -> None:
    model = model_of()
    one, again, other = (draw(model, faces[:2], seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one[:270], other[:270])


def test_one_face_is_enough_and_large_ones_are_not_enlarged(faces: Pixels) -> None:
    large = faces[:1].repeat(2, 1).repeat(2, 2)
    assert draw(model_of(128), large, seed=0).shape[1] == 4 * 132 + 4
    with pytest.raises(Refused, match=r"at least one face is needed, uint8 and \(N, 64, 64, 3\)"):
        draw(model_of(), faces[:0], seed=0)


@pytest.mark.parametrize("change", [lambda each: each / 255.0, lambda each: each[..., :1], lambda each: each[:, ::2]])
def test_other_arrays_are_refused(faces: Pixels, change: Any) -> None:
    with pytest.raises(Refused, match="Align photos to 64 px"):
        draw(model_of(), change(faces[:2]), seed=0)


# Bytes and what models read


def test_normalising_is_the_published_formula_and_comes_back_to_the_byte() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = normalise(torch.from_numpy(every))
    assert images.shape == (1, 3, 16, 16) and images.dtype == torch.float32 and images.is_contiguous()
    for channel, (mean, sd) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        expected = (every[0, ..., channel] / 255 - mean) / sd
        assert images[0, channel].numpy() == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(to_bytes(images), every)
    assert (to_bytes(torch.full((1, 3, 1, 1), 99.0)) == 255).all()
    assert (to_bytes(torch.full((1, 3, 1, 1), -99.0)) == 0).all()
