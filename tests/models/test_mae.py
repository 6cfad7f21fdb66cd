"""The masked autoencoder: equal to a slow one that shares nothing with it, and steady on pictures at the edge."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from fahr.errors import Refused
from fahr.models import Architecture, Decoder, MaeOptions, MaskedAutoencoder, build, create
from fahr.models.mae import reconstruction_loss
from fahr.models.masking import random_mask
from fahr.models.patches import cut, join, pixels
from models.slow_mae import patch_pixels, slow_loss


def small(patch: int = 8, size: int = 48, **options: Any) -> MaskedAutoencoder:
    """Width 48 and decoder width 32, two blocks each. Biases and norms are moved off 0 and 1: mistakes hide there."""
    shape = Architecture("small", 48, 2, 3, patch, size, "mae", decoder=Decoder(32, 2, 4))
    model = build(shape, options=MaeOptions(**options), seed=0)
    assert isinstance(model, MaskedAutoencoder)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model


def pictures(batch: int, size: int = 48) -> Tensor:
    """Smooth and noisy parts, in the range of normalised pixels."""
    generator = torch.Generator().manual_seed(2)
    ramp = torch.linspace(-2, 2, size)[:, None] + torch.linspace(0, 0.5, size)
    return 0.5 * ramp + torch.rand(batch, 3, size, size, generator=generator)


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("decoded", [1.0, 0.5])
def test_loss_and_gradients_are_those_of_the_slow_one(patch: int, norm_pix: bool, decoded: float) -> None:
    model, images = small(patch, norm_pix=norm_pix, decoded=decoded), pictures(2)
    mask = random_mask(2, model.architecture.num_patches, 0.75, torch.Generator().manual_seed(3))
    made = model(images, mask)
    made.loss.backward()
    assert made.decoded.shape[1] == int(decoded * mask.masked.shape[1])

    weights = {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}
    expected = slow_loss(
        weights, images.double(), mask.keep.tolist(), made.decoded.tolist(), patch, heads=(3, 4), norm_pix=norm_pix
    )
    expected.backward()  # type: ignore[no-untyped-call]
    assert made.loss.dtype == torch.float32
    assert made.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=0)
    for name, parameter in model.named_parameters():
        slow = weights[name].grad
        assert slow is not None and parameter.grad is not None, name
        assert (parameter.grad - slow).abs().max() <= 1e-5 * slow.abs().max(), name


def test_positions_that_a_checkpoint_brought_are_used_for_cls_as_well() -> None:
    model, images = small(16), pictures(1)
    tables = [
        part.pos_embed.normal_(generator=torch.Generator().manual_seed(4)) for part in (model.encoder, model.decoder)
    ]
    made = model(images)
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    at = (tables[0][0].double(), tables[1][0].double())
    keep, decoded = made.mask.keep.tolist(), made.decoded.tolist()
    expected = slow_loss(weights, images.double(), keep, decoded, 16, (3, 4), norm_pix=True, places=at)
    assert made.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=0)


def test_pixels_are_in_the_order_row_column_channel_and_come_back() -> None:
    images = pictures(2, 24)
    for image, values in zip(images, pixels(cut(images, 8)), strict=True):
        assert torch.equal(values, torch.stack(patch_pixels(image, 8)))
    assert torch.equal(join(pixels(cut(images, 8))), images)
    which = torch.tensor([[8, 0, 3], [1, 1, 7]])
    chosen = cut(images, 8, which)
    for row in range(2):
        assert torch.equal(chosen[row], cut(images, 8)[row, which[row]])


def test_hidden_pixels_reach_the_target_and_nothing_else() -> None:
    model, images = small(norm_pix=False), pictures(1)
    mask = random_mask(1, 36, 0.75, torch.Generator().manual_seed(0))
    hidden = mask.removed().view(1, 1, 6, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    before = model(images, mask)
    after = model(torch.where(hidden, images + 1, images), mask)
    assert torch.equal(before.prediction, after.prediction)
    assert not torch.equal(before.loss, after.loss)
    assert not torch.allclose(before.prediction, model(torch.where(hidden, images, images + 1), mask).prediction)


def test_painting_puts_every_patch_in_its_place() -> None:
    """A predictor that is planted to answer with its position paints the picture of positions."""
    model = small(norm_pix=False)
    mask = random_mask(2, 36, 0.75, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.decoder.blocks = torch.nn.ModuleList()
        model.decoder.embed.weight.zero_()
        model.decoder.embed.bias.zero_()
        model.decoder.mask_token.zero_()
        model.decoder.norm = torch.nn.Identity()  # type: ignore[assignment]
        model.decoder.predict.weight.zero_()
        model.decoder.predict.weight[:, 0] = 1  # sin(column)
        model.decoder.predict.weight[:, 16] = 10  # sin(row)
        model.decoder.predict.bias.zero_()
        painted = model.paint(pictures(2), mask)
    number = torch.arange(48) // 8
    expected = torch.sin(number.float())[None, :] + 10 * torch.sin(number.float())[:, None]
    assert torch.allclose(painted, expected.expand(2, 3, 48, 48), atol=1e-5)


def test_painting_undoes_norm_pix_with_the_true_mean_and_spread() -> None:
    """Predictions equal to the target must give the picture back."""
    model, images = small(), pictures(2)
    mask = random_mask(2, 36, 0.75, torch.Generator().manual_seed(0))
    place = mask.ids_restore.argsort(1)  # the decoder answers in the order [keep, masked]
    answers = model.target(images).gather(1, place[..., None].expand(-1, -1, 192))
    model.decoder.forward = lambda *_: answers  # type: ignore[method-assign]
    model.decoder.predict = torch.nn.Identity()  # type: ignore[assignment]
    assert torch.allclose(model.paint(images, mask), images, atol=1e-5)


# Pictures at the edge


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("picture", ["black", "white", "checkerboard", "one bright pixel"])
def test_loss_is_fp32_and_finite_on_any_picture(dtype: torch.dtype | None, norm_pix: bool, picture: str) -> None:
    """-2.1 and 2.6 are black and white after normalisation. A flat patch has variance 0."""
    model = small(norm_pix=norm_pix)
    images = torch.full((1, 3, 48, 48), 2.6 if picture == "white" else -2.1)
    if picture == "checkerboard":
        images[..., ::2, ::2] = images[..., 1::2, 1::2] = 2.6
    if picture == "one bright pixel":
        images[..., ::8, ::8] = 2.6
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        made = model(images, generator=torch.Generator().manual_seed(0))
    made.loss.backward()
    assert made.loss.dtype == torch.float32 and made.loss.isfinite()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)


def test_flat_patches_have_the_target_zero() -> None:
    images = torch.full((1, 3, 48, 48), 0.3)
    assert small().target(images).abs().max() < 1e-3  # one ulp of 0.3 over sqrt(1e-6) is 3e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_target_and_loss_survive_what_half_precision_cannot_hold(dtype: torch.dtype) -> None:
    """The square of 60,000 is beyond fp16, 1e-6 below its normal numbers."""
    images = torch.full((1, 3, 48, 48), 60000.0, dtype=dtype)
    images[..., ::2] = -60000
    with torch.autocast("cpu", dtype):
        for norm_pix in (True, False):
            target = small(norm_pix=norm_pix).target(images)
            assert reconstruction_loss(images, torch.zeros_like(images)).item() == pytest.approx(3.6e9, rel=0.01)
            loss = reconstruction_loss(torch.zeros_like(target, dtype=dtype), target)
            assert target.dtype == loss.dtype == torch.float32 and loss.isfinite()
            if norm_pix:
                assert loss.item() == pytest.approx(191 / 192, rel=1e-5)  # of the unbiased variance


@pytest.mark.parametrize("patch", [8, 16])
def test_a_single_picture_trains_and_equals_its_row_in_a_batch(patch: int) -> None:
    model, images = small(patch), pictures(3)
    mask = random_mask(3, model.architecture.num_patches, 0.75, torch.Generator().manual_seed(0))
    whole = model(images, mask)
    for row in range(3):
        alone = model(images[row : row + 1], type(mask)(*(each[row : row + 1] for each in mask)))
        assert torch.allclose(alone.prediction[0], whole.prediction[row], atol=1e-5)
    alone.loss.backward()


# What decoding a subset estimates


def test_mean_over_all_subsets_is_the_full_loss_for_the_same_predictions() -> None:
    """Unbiased: every subset is equally likely (test_masking.py), and over all 20 of 3 in 6 the mean is exact."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 1, 6, 12, generator=generator, dtype=torch.float64)
    losses = [reconstruction_loss(prediction[:, which], target[:, which]) for which in combinations(range(6), 3)]
    assert torch.stack(losses).mean().item() == pytest.approx(reconstruction_loss(prediction, target).item(), rel=1e-6)


def test_subset_loss_is_unbiased_where_painted_patches_do_not_attend() -> None:
    """With the decoder's attention planted to 0 a patch is painted alike in any company: all that the claim needs."""
    model, images = small(decoded=0.5), pictures(4)
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.attn.proj.weight.zero_()  # type: ignore[union-attr, operator]
    mask = random_mask(4, 36, 0.75, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = torch.stack([model(images, mask, generator).loss for _ in range(300)]).double()
        model.options = MaeOptions(decoded=1.0)
        whole = model(images, mask).loss.double()
    assert (drawn.mean() - whole).abs() < 4 * drawn.std() / 300**0.5
    assert drawn.std() > 1e-4  # the subsets do differ


def test_a_patch_is_painted_differently_in_a_smaller_company() -> None:
    """Why the subset's loss is not the full loss in expectation for a real decoder: painted patches attend."""
    model, images = small(decoded=0.5), pictures(1)
    mask = random_mask(1, 36, 0.75, torch.Generator().manual_seed(0))
    some = model(images, mask, torch.Generator().manual_seed(0))
    model.options = MaeOptions()
    everything = model(images, mask)
    place = torch.searchsorted(everything.decoded[0], some.decoded[0])
    assert torch.equal(everything.decoded[0][place], some.decoded[0])
    assert not torch.allclose(everything.prediction[0][place], some.prediction[0], atol=1e-4)


def test_one_patch_is_decoded_however_small_the_share() -> None:
    made = small(decoded=0.001)(pictures(2))
    assert made.decoded.shape == (2, 1) and made.loss.isfinite()


# Steps


def test_a_training_step_is_the_same_for_the_same_generator() -> None:
    def trained(seed: int) -> list[Tensor]:
        model = small(decoded=0.5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            optimizer.zero_grad()
            model(pictures(4), generator=generator).loss.backward()
            optimizer.step()
        return [*model.parameters()]

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


# Refusals


@pytest.mark.parametrize("ratio", [0, -0.1, 1, 1.5, float("nan")])
def test_a_ratio_outside_the_range_is_refused_by_the_options(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        MaeOptions(mask_ratio=ratio)


def test_a_ratio_that_hides_everything_is_refused_before_training() -> None:
    with pytest.raises(Refused, match=r"0\.99: leaves none of the 49 patches visible\. Give at most 0\.97"):
        create("vit_tiny", patch=16, options=MaeOptions(mask_ratio=0.99))
    assert create("vit_tiny", patch=8, options=MaeOptions(mask_ratio=0.99)).training  # 1 of 196 stays
    with pytest.raises(Refused, match=r"0\.5: leaves none of the 1 patches visible\. Give a smaller patch"):
        create("vit_tiny", patch=16, size=16, options=MaeOptions(mask_ratio=0.5))


@pytest.mark.parametrize("share", [0, -1, 1.01])
def test_a_share_of_decoded_patches_outside_the_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="decoded"):
        MaeOptions(decoded=share)


def test_an_unknown_region_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match=r"'eye': not one of .*Did you mean 'eyes'\?"):
        create("vit_tiny", options=MaeOptions(regions={"eye": 2.0}))
