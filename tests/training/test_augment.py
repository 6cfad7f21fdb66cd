"""Augmentation: what it may do to a face, what it may not, and on what it may depend."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fahr.training.augment import PRESETS, Augmentation, augment
from fahr.training.randomness import uniform
from tools.faces import people, pictures

ALL = Augmentation(
    crop=0.4, turn=25, zoom=0.2, mirror=0.5, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.3, detail=0.5,
    blur=0.5, blur_most=0.05, erase=0.5,
)  # fmt: skip
EACH = {
    "crop": Augmentation(crop=0.4),
    "turn": Augmentation(turn=25),
    "zoom": Augmentation(zoom=0.2),
    "mirror": Augmentation(mirror=0.5),
    "brightness": Augmentation(brightness=0.4),
    "contrast": Augmentation(contrast=0.4),
    "saturation": Augmentation(saturation=0.4),
    "grey": Augmentation(grey=0.5),
    "detail": Augmentation(detail=0.5),
    "blur": Augmentation(blur=0.5, blur_most=0.05),
    "erase": Augmentation(erase=0.5),
}


def tensors(faces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """(64, 3, 32, 32): the hardest for interpolation, neighbouring pixels have nothing in common."""
    return torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def smooth() -> Tensor:
    return tensors(pictures(64))


def test_with_everything_off_the_images_come_back_bit_for_bit(noise):
    assert torch.equal(augment(noise, torch.arange(64), 0, Augmentation()), noise)


@pytest.mark.parametrize("options", [ALL, *EACH.values(), *PRESETS.values()], ids=["all", *EACH, *PRESETS])
def test_a_face_alone_becomes_what_it_becomes_in_a_batch(noise, options):
    positions = torch.arange(64) + 2**40
    together = augment(noise, positions, 3, options)
    alone = torch.cat([augment(noise[n : n + 1], positions[n : n + 1], 3, options) for n in range(64)])
    assert (together - alone).abs().max() <= 1e-6
    mixed = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert (augment(noise[mixed], positions[mixed], 3, options) - together[mixed]).abs().max() <= 1e-6


@pytest.mark.parametrize("name", EACH)
def test_each_change_happens_and_stays_a_picture(smooth, name):
    before = smooth.clone()
    made = augment(smooth, torch.arange(64), 0, EACH[name])
    assert torch.equal(smooth, before)  # the batch that was given is not written to
    assert made.shape == smooth.shape and made.dtype == torch.float32
    assert made.min() >= 0 and made.max() <= 1
    changed = ((made - smooth).abs().amax((1, 2, 3)) > 1e-4).float().mean()
    likely = 0.5 if name in ("mirror", "grey", "detail", "blur", "erase") else 1.0
    assert abs(changed - likely) <= 3.5 * math.sqrt(likely * (1 - likely) / 64) + 0.05
    again, other = augment(smooth, torch.arange(64), 0, EACH[name]), augment(smooth, torch.arange(64), 1, EACH[name])
    assert torch.equal(again, made) and not torch.equal(other, made)
    later = augment(smooth, torch.arange(64) + 64, 0, EACH[name])
    assert not torch.equal(later, made)


def test_switching_one_change_off_leaves_the_others_as_they_were(smooth):
    """Of the faces that are not painted over, all with `erase` are as they are without it."""
    positions = torch.arange(64)
    without = ALL.model_copy(update={"erase": 0.0})
    spared = uniform(5, positions, "augment.erase", 1)[:, 0] >= ALL.erase
    assert 15 < spared.sum() < 50
    assert torch.equal(augment(smooth, positions, 5, ALL)[spared], augment(smooth, positions, 5, without)[spared])


def test_a_mirrored_face_is_the_face_mirrored(noise):
    made = augment(noise, torch.arange(64), 0, Augmentation(mirror=0.5))
    for before, after in zip(noise, made, strict=True):
        assert torch.equal(after, before) != torch.equal(after, before.flip(-1))


# Where pixels come from: a picture whose red is x and whose green is y tells it


def ramp(side: int) -> Tensor:
    """(64, 3, side, side): red 0 to 1 from the left edge to the right, green from the top to the bottom."""
    centres = (torch.arange(side) + 0.5) / side
    return torch.stack([centres.expand(side, side), centres[:, None].expand(side, side), centres.expand(side, side)])[
        None
    ].repeat(64, 1, 1, 1)


def read_off(made: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(64, 2, 3) affine map that each picture shows, over the inner half of the result; and its residual."""
    side = made.shape[-1]
    centres = (np.arange(side) + 0.5) / side
    inner = slice(side // 4, 3 * side // 4)
    x, y = np.meshgrid(centres[inner], centres[inner])
    design = np.column_stack([x.ravel(), y.ravel(), np.ones(x.size)])
    shown = made[:, :2, inner, inner].numpy().astype(float).reshape(len(made), 2, -1)
    maps = np.linalg.lstsq(design, shown.reshape(2 * len(made), -1).T, rcond=None)[0].T.reshape(-1, 2, 3)
    return maps, abs(shown - maps @ design.T).max((1, 2))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_keep_the_share_of_the_area_and_lie_inside(interpolation):
    options = Augmentation(crop=0.5, interpolation=interpolation)
    maps, off = read_off(augment(ramp(64), torch.arange(64), 0, options))
    assert off.max() < 2e-3
    width, height = maps[:, 0, 0], maps[:, 1, 1]
    assert abs(maps[:, 0, 1]).max() < 1e-3 and abs(maps[:, 1, 0]).max() < 1e-3  # no turn, no shear
    area, ratio = width * height, width / height
    assert area.min() > 0.5 - 1e-3 and area.max() < 1 + 1e-3
    assert area.mean() == pytest.approx(0.73, abs=0.06)
    assert ratio.min() > 3 / 4 - 1e-3 and ratio.max() < 4 / 3 + 1e-3
    assert ratio.min() < 0.85 and ratio.max() > 1.15
    left, top = maps[:, 0, 2], maps[:, 1, 2]
    assert min(left.min(), top.min()) > -1e-3 and max((left + width).max(), (top + height).max()) < 1 + 1e-3
    assert left.max() > 0.15 and top.max() > 0.15


def test_turns_are_turns_by_at_most_the_angle_about_the_middle():
    maps, off = read_off(augment(ramp(64), torch.arange(64), 0, Augmentation(turn=10)))
    assert off.max() < 2e-3
    cos, sin = maps[:, 0, 0], maps[:, 1, 0]
    assert np.allclose(maps[:, 1, 1], cos, atol=1e-3) and np.allclose(maps[:, 0, 1], -sin, atol=1e-3)
    assert np.allclose(np.hypot(cos, sin), 1, atol=1e-3)
    angles = np.degrees(np.arctan2(sin, cos))
    assert 8 < angles.max() <= 10.1 and -10.1 <= angles.min() < -8
    assert np.allclose(maps[:, :, :2].sum(2) / 2 + maps[:, :, 2], 0.5, atol=1e-3)  # the middle stays


def test_zooms_enlarge_and_shrink_by_at_most_their_share():
    maps, off = read_off(augment(ramp(64), torch.arange(64), 0, Augmentation(zoom=0.1)))
    assert off.max() < 2e-3
    shown = 1 / maps[:, 0, 0]
    assert np.allclose(maps[:, 0, 0], maps[:, 1, 1], atol=1e-3)
    assert 0.899 < shown.min() < 0.93 and 1.07 < shown.max() < 1.101


# Colour


def test_colour_changes_are_those_of_their_names(smooth):
    positions = torch.arange(64)
    luma = torch.tensor([0.299, 0.587, 0.114])
    dim = smooth * 0.5 + 0.2  # nothing is cut off at black or white
    grey_of = torch.einsum("bchw,c->bhw", dim, luma)

    brighter = augment(dim, positions, 0, Augmentation(brightness=0.2)) / dim
    assert (brighter.amax((1, 2, 3)) - brighter.amin((1, 2, 3))).max() < 1e-5  # one factor for a face
    assert brighter.min() >= 0.8 - 1e-5 and brighter.max() <= 1.2 + 1e-5 and brighter.std() > 0.05

    made = augment(dim, positions, 0, Augmentation(contrast=0.2))
    mean = grey_of.mean((1, 2))
    assert torch.allclose(torch.einsum("bchw,c->bhw", made, luma).mean((1, 2)), mean, atol=1e-5)
    factor = made.std((1, 2, 3)) / dim.std((1, 2, 3))
    assert factor.min() >= 0.8 - 0.01 and factor.max() <= 1.2 + 0.01 and factor.std() > 0.05

    made = augment(dim, positions, 0, Augmentation(saturation=0.2))
    assert torch.allclose(torch.einsum("bchw,c->bhw", made, luma), grey_of, atol=1e-5)

    made = augment(dim, positions, 0, Augmentation(grey=1))
    assert torch.allclose(made, grey_of[:, None].expand(-1, 3, -1, -1), atol=1e-6)


# Detail


def test_blur_and_loss_of_detail_keep_flat_pictures_and_take_what_is_fine():
    flat = torch.full((64, 3, 64, 64), 0.37)
    fine = (torch.arange(64) % 2).float().expand(64, 3, 64, 64).contiguous()  # stripes of one pixel
    coarse = tensors(people(4, 64)).repeat(16, 1, 1, 1)
    for options in (Augmentation(detail=1, detail_kept=0.3), Augmentation(blur=1, blur_most=0.03)):
        assert torch.allclose(augment(flat, torch.arange(64), 0, options), flat, atol=1e-5)
        spread = augment(fine, torch.arange(64), 0, options)[..., 4:-4].std(-1).mean((1, 2)) / fine.std()
        assert spread.min() < 0.15  # the strongest take the stripes away
        apart = (augment(coarse, torch.arange(64), 0, options) - coarse).abs().mean((1, 2, 3))
        assert apart.mean() > 0.003 and apart.max() < 0.1  # faces stay faces
        middle = (coarse - augment(coarse, torch.arange(64), 0, options)).mean((1, 2, 3)).abs()
        assert middle.max() < 0.01  # neither brighter nor darker


def test_blur_is_a_gaussian():
    """A single bright point becomes a bell of the standard deviation that was drawn."""
    point = torch.zeros(64, 3, 65, 65)
    point[:, :, 32, 32] = 1
    made = augment(point, torch.arange(64), 0, Augmentation(blur=1, blur_most=0.05)).double()
    place = torch.arange(65).double() - 32
    sigma = uniform(0, torch.arange(64), "augment.blur.sigma", 1)[:, 0].double() * 0.05 * 65
    wide = sigma > 0.8  # below it, points on a grid are no longer a bell
    for way in (2, 3):
        profile = made[:, 0].sum(way - 1)
        spread = ((profile * place**2).sum(1) / profile.sum(1)).sqrt()
        assert torch.allclose(spread[wide], sigma[wide], atol=1e-3)
    assert wide.sum() > 30 and torch.allclose(made.sum((2, 3)), torch.ones(64, 3).double(), atol=1e-5)


# The block


def test_erasing_paints_one_rectangle_in_one_colour(noise):
    made = augment(noise, torch.arange(64), 0, Augmentation(erase=1, erase_most=0.3))
    shares = []
    for before, after in zip(noise, made, strict=True):
        painted = (before != after).any(0)
        rows, columns = painted.any(1).nonzero()[:, 0], painted.any(0).nonzero()[:, 0]
        block = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert painted.sum() == block[0].numel() and (block == block[:, :1, :1]).all()
        shares.append(painted.float().mean().item())
    assert min(shares) < 0.08 and 0.22 < max(shares) <= 0.36
    assert len({tuple(each.tolist()) for each in uniform(0, torch.arange(64), "augment.erase.colour", 3)}) == 64


# The whole


def test_presets_are_those_of_the_specification():
    mae, age = PRESETS["mae"], PRESETS["age"]
    assert (mae.crop, mae.mirror, mae.interpolation) == (0.5, 0.5, "bicubic")
    assert (age.turn, age.zoom, age.grey, age.erase) == (10, 0.1, 0.1, 0.25)
    assert age.crop == 1 and mae.turn == mae.erase == 0


def test_values_out_of_range_are_refused_before_anything_starts():
    for wrong in ({"crop": 0}, {"mirror": 1.5}, {"turn": -1}, {"erase_most": 0.01}, {"flip": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Augmentation(**wrong)
    with pytest.raises(ValueError, match="positions"):
        augment(torch.zeros(4, 3, 8, 8), torch.arange(1), 0, PRESETS["age"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_pictures(smooth):
    for options in (ALL, *PRESETS.values()):
        here = augment(smooth, torch.arange(64), 0, options)
        there = augment(smooth.cuda(), torch.arange(64).cuda(), 0, options).cpu()
        assert (here - there).abs().max() < 1e-4
