"""Masks: exact in number, fair in chance, and heavier where weights say so."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fahr.errors import Refused
from fahr.faces.alignment import template
from fahr.models import Decoder, MaeOptions, create
from fahr.models.masking import Mask, random_mask, random_subset
from fahr.models.regions import REGIONS, patch_weights, region_map

Chances = dict[tuple[int, ...], float]
RARE = 1e-4  # a right program fails a chance test this often, over all seeds; the seed is 0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    batch=st.integers(1, 5),
    grid=st.integers(2, 15),
    ratio=st.floats(0.01, 0.99),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_counts_are_exact_and_the_order_comes_back(
    batch: int, grid: int, ratio: float, weighted: bool, seed: int
) -> None:
    patches = grid * grid
    kept = int(patches * (1 - ratio))
    weights = torch.linspace(0.1, 50, patches) if weighted else None
    if kept in (0, patches):
        with pytest.raises(Refused, match="Give"):
            random_mask(batch, patches, ratio, seeded(seed), weights)
        return
    mask = random_mask(batch, patches, ratio, seeded(seed), weights)
    assert mask.keep.shape == (batch, kept) and mask.masked.shape == (batch, patches - kept)
    assert mask.keep.dtype == mask.masked.dtype == torch.long
    both = torch.cat([mask.keep, mask.masked], 1)
    everything = torch.arange(patches).expand(batch, -1)
    assert torch.equal(both.sort(1).values, everything)
    assert torch.equal(both.gather(1, mask.ids_restore), everything)
    assert (mask.keep.diff(dim=1) > 0).all() and (mask.masked.diff(dim=1) > 0).all()
    assert torch.equal(mask.removed().sum(1), torch.full((batch,), patches - kept))
    assert mask.removed().gather(1, mask.masked).all()


def subset_chances(counts: dict[tuple[int, ...], int], chances: Chances) -> float:
    """The p-value of counted subsets against their exact chances."""
    total = sum(counts.values())
    names = sorted(chances)
    observed, expected = [counts.get(name, 0) for name in names], [total * chances[name] for name in names]
    return float(stats.chisquare(observed, expected).pvalue)


def counted(rows: Tensor) -> dict[tuple[int, ...], int]:
    found, times = np.unique(rows.numpy(), axis=0, return_counts=True)
    return {tuple(int(each) for each in row): int(count) for row, count in zip(found, times, strict=True)}


def test_each_patch_is_masked_equally_often() -> None:
    mask = random_mask(40_000, 49, 0.75, seeded())
    removed = mask.removed().double()
    chance = 37 / 49
    # Without replacement the counts are tied to their sum: their scatter is that of chi-square with 48, once scaled.
    scatter = (removed.sum(0) - 40_000 * chance) ** 2 / (40_000 * chance * (1 - chance)) * 48 / 49
    assert RARE < stats.chi2.sf(float(scatter.sum()), 48) < 1 - RARE


def test_every_mask_is_equally_likely() -> None:
    mask = random_mask(20_000, 6, 0.5, seeded())
    every: Chances = {subset: 1 / 20 for subset in combinations(range(6), 3)}
    assert subset_chances(counted(mask.masked), every) > RARE


def test_weighted_masks_are_those_of_drawing_one_patch_after_the_other() -> None:
    """Exact chances by going through every order of drawing, each time in proportion to the weights that are left."""
    weights = [1.0, 2.0, 0.5, 5.0, 1.5]
    chances: Chances = {}
    for order in permutations(range(5), 2):
        chance = weights[order[0]] / 10 * weights[order[1]] / (10 - weights[order[0]])
        chances[min(order), max(order)] = chances.get((min(order), max(order)), 0) + chance
    assert sum(chances.values()) == pytest.approx(1)
    mask = random_mask(40_000, 5, 0.4, seeded(), torch.tensor(weights))
    assert subset_chances(counted(mask.masked), chances) > RARE
    even = {subset: 1 / 10 for subset in chances}
    assert subset_chances(counted(mask.masked), even) < 1e-12  # the test can tell


def test_equal_weights_give_the_mask_of_no_weights() -> None:
    for scale in (1.0, 3.7):
        one, other = (
            random_mask(50, 196, 0.75, seeded()),
            random_mask(50, 196, 0.75, seeded(), torch.full((196,), scale)),
        )
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_picture_may_have_its_own_weights() -> None:
    weights = torch.ones(2, 16)
    weights[0, :8] = weights[1, 8:] = 1e9
    mask = random_mask(2, 16, 0.5, seeded(), weights)
    assert mask.masked.tolist() == [list(range(8)), list(range(8, 16))]


def test_subsets_to_decode_are_equally_likely_whatever_the_weights_of_the_mask() -> None:
    masked = torch.tensor([[2, 3, 5, 7]]).expand(12_000, -1)
    subsets = random_subset(masked, 2, seeded())
    every: Chances = {subset: 1 / 6 for subset in combinations((2, 3, 5, 7), 2)}
    assert subset_chances(counted(subsets), every) > RARE


def test_the_generator_decides_and_the_global_one_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (random_mask(8, 49, 0.75, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.keep, again.keep) and not torch.equal(one.keep, other.keep)
    assert len(counted(one.keep)) == 8  # pictures of a batch do not share a mask


# Regions


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("region", ["eyes", "nose", "mouth", "skin", "background"])
def test_a_heavier_region_is_masked_more_often_and_the_count_never_changes(region: str, patch: int) -> None:
    def share(regions: dict[str, float] | None) -> tuple[float, Mask]:
        model = create("vit_tiny", patch=patch, decoder=Decoder(8, 1, 1), options=MaeOptions(regions=regions))
        mask = model.draw_mask(4000, seeded(), torch.device("cpu"))
        pixels = mask.removed().reshape(4000, 112 // patch, 112 // patch).float().mean(0)
        covered = pixels.repeat_interleave(patch, 0).repeat_interleave(patch, 1).numpy()
        return float(covered[region_map(112) == REGIONS.index(region)].mean()), mask

    plain, mask = share(None)
    heavier, heavy_mask = share({region: 4.0})
    lighter, light_mask = share({region: 0.25})
    assert plain == pytest.approx(1 - int((112 // patch) ** 2 * 0.25) / (112 // patch) ** 2, abs=0.01)
    assert lighter + 0.05 < plain < heavier - 0.05
    assert mask.keep.shape == heavy_mask.keep.shape == light_mask.keep.shape


def test_landmarks_lie_in_their_regions_at_every_size() -> None:
    for size in (64, 112, 224):
        names = [REGIONS[region_map(size)[round(y), round(x)]] for x, y in template(size)]
        assert names == ["eyes", "eyes", "nose", "mouth", "mouth"]
        shares = np.bincount(region_map(size).ravel(), minlength=5) / size**2
        assert shares == pytest.approx(np.bincount(region_map(112).ravel(), minlength=5) / 112**2, abs=0.02)
        assert (shares > 0.02).all()


def test_a_patch_weighs_the_mean_of_its_pixels() -> None:
    of_pixel = np.where(region_map(112) == REGIONS.index("mouth"), 3.0, 1.0)
    expected = [
        of_pixel[top : top + 16, left : left + 16].mean() for top in range(0, 112, 16) for left in range(0, 112, 16)
    ]
    assert patch_weights({"mouth": 3.0}, 112, 16).tolist() == pytest.approx(expected)
    assert torch.equal(patch_weights({}, 112, 16), torch.ones(49))


# Refusals


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0, "mask ratio 0: must be above 0 and below 1"),
        (1, "mask ratio 1: must be above 0"),
        (float("nan"), "mask ratio nan"),
        (0.98, r"0\.98: leaves none of the 49 patches visible\. Give at most 0\.97, or a smaller patch"),
        (1e-17, r"masks none of the 49 patches\. Give at least 0\.020"),
    ],
)
def test_impossible_ratios_are_refused_with_the_remedy(ratio: float, message: str) -> None:
    with pytest.raises(Refused, match=message):
        random_mask(1, 49, ratio)


def test_the_remedy_works() -> None:
    assert random_mask(1, 49, 0.97).keep.shape == (1, 1)
    assert random_mask(1, 49, 0.021).masked.shape[1] >= 1


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_that_are_no_weights_are_refused(bad: float) -> None:
    weights = torch.ones(49)
    weights[7] = bad
    with pytest.raises(Refused, match="finite and above 0"):
        random_mask(1, 49, 0.75, weights=weights)
    with pytest.raises(Refused, match="region 'eyes' has weight"):
        patch_weights({"eyes": bad}, 112, 16)
    with pytest.raises(Refused, match=r"shape \(48,\): one for each of 49"):
        random_mask(1, 49, 0.75, weights=torch.ones(48))
