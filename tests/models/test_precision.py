"""bf16 where it is harmless, fp32 where it is not."""

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn

from fahr.errors import Refused
from fahr.models import Architecture, Predictor, build, create
from fahr.models.precision import autocast, for_inference, use_fused_attention


def predictor() -> Predictor:
    return create("vit_tiny", patch=16, task="age", seed=0)


def faces(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_only_the_linear_layers_of_the_encoder_are_rounded() -> None:
    model = for_inference(predictor(), "cpu", "bf16")
    linear = {
        f"{name}.{part}"
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for part in ("weight", "bias")
    }
    rounded = {name for name, value in model.encoder.state_dict().items() if value.dtype == torch.bfloat16}
    assert rounded == linear and len(linear) == 2 * (1 + 12 * 4)
    assert {value.dtype for value in model.head.parameters()} == {torch.float32}
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_inference_in_bf16_is_training_in_bf16_to_the_bit() -> None:
    with autocast("cpu", "bf16"), torch.no_grad():
        trained = predictor().eval().features(faces())
    assert torch.equal(for_inference(predictor(), "cpu", "bf16").features(faces()), trained)


def test_so_it_is_for_an_encoder_of_clip_whose_first_norm_stays_fp32() -> None:
    shape = Architecture("small", 64, 2, 4, 16, 112, "age", pre_norm=True, activation="quick_gelu")
    with autocast("cpu", "bf16"), torch.no_grad():
        trained = build(shape, seed=0).eval().features(faces())  # type: ignore[operator]
    rounded = for_inference(build(shape, seed=0), "cpu", "bf16")  # type: ignore[arg-type]
    assert torch.equal(rounded.features(faces()), trained)
    assert rounded.encoder.norm_pre.weight.dtype == torch.float32


def test_bf16_stays_close_to_fp32() -> None:
    with torch.no_grad():
        exact = predictor().eval().features(faces())
    close = for_inference(predictor(), "cpu", "bf16").features(faces())
    # eight bits, over twelve blocks: features have a spread of 1
    assert 1e-4 < (close - exact).square().mean().sqrt() < 0.02


def test_fp32_is_left_as_it_is() -> None:
    model = predictor()
    with torch.no_grad():
        before = model.eval()(faces())
    assert torch.equal(for_inference(model, "cpu", "fp32")(faces()), before)
    assert for_inference(for_inference(predictor(), "cpu", "bf16"), "cpu", "bf16").encoder.autocast_to is torch.bfloat16
    with autocast("cpu", "fp32"):
        assert not torch.is_autocast_enabled("cpu")


def test_what_was_rounded_cannot_become_fp32_again() -> None:
    model = for_inference(predictor(), "cpu", "bf16")
    with pytest.raises(Refused, match=r"'fp32': this model was rounded to torch\.bfloat16\. Load it again"):
        for_inference(model, "cpu", "fp32")


def test_saliency_can_still_ask_for_the_gradient_of_the_picture() -> None:
    model, pictures = for_inference(predictor(), "cpu", "bf16"), faces().requires_grad_()
    model(pictures).sum().backward()
    assert pictures.grad is not None and pictures.grad.isfinite().all() and pictures.grad.any()


def test_the_attention_kernels_agree_and_a_cpu_uses_the_plain_one() -> None:
    model = create("vit_tiny", seed=0)
    kernels = [module for module in model.modules() if isinstance(module, Attention)]
    assert len(kernels) == 12 + 8 and not any(module.fused_attn for module in kernels)
    pictures, generator = faces(), torch.Generator()
    plain = model(pictures, generator=generator.manual_seed(0)).loss
    use_fused_attention(model, on=True)
    assert all(module.fused_attn for module in kernels)
    assert model(pictures, generator=generator.manual_seed(0)).loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for_inference(predictor(), "cpu", "fp32")
    assert not any(module.fused_attn for module in predictor().modules() if isinstance(module, Attention))


@pytest.mark.parametrize("given", ["bf61", "fp16", "float32"])
def test_an_unknown_precision_is_refused(given: str) -> None:
    with pytest.raises(Refused, match=rf"precision '{given}': not one of fp32, bf16"):
        for_inference(predictor(), "cpu", given)
    with pytest.raises(Refused, match="not one of"), autocast("cpu", given):
        pass
