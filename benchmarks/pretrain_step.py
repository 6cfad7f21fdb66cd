"""One step of masked-autoencoder pretraining, and scoring, against the published recipe and a bare timm loop.

python benchmarks/pretrain_step.py [--rounds 5] [--batch 32] [--model vit_base]
python benchmarks/pretrain_step.py --device cuda --batches 512 1024 4096      # samples/s and share of the card's peak

A step is all of it: forward, loss to the host, backward, norm of the gradients, AdamW. The recipe's own step is
written here from its description, as it is shipped: every patch is embedded, tokens are shuffled and shuffled back, all
hidden patches are painted, AdamW goes parameter by parameter. Equal losses and gradients are asserted before timing.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _rounds import interleave, median_range, ratios, table
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fahr.models import Decoder, MaeOptions, MaskedAutoencoder, create
from fahr.models.masking import Mask
from fahr.models.precision import autocast, use_fused_attention
from fahr.scoring import Scorer

LIGHT = Decoder(depth=4)
RATE, DECAY, BETAS = 1.5e-4, 0.05, (0.9, 0.95)


class PublishedMae(nn.Module):
    """The recipe as described: the weights are those of `model`, so that losses can be compared."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        shape = model.architecture
        assert shape.decoder is not None
        self.patch, width = shape.patch, shape.width
        self.embed = nn.Conv2d(3, width, shape.patch, shape.patch)
        self.cls_token = nn.Parameter(model.encoder.cls_token.detach().clone())
        self.positions = nn.Parameter(model.encoder.pos_embed.detach().clone(), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, shape.num_heads, qkv_bias=True) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.narrow = nn.Linear(width, shape.decoder.width)
        self.mask_token = nn.Parameter(model.decoder.mask_token.detach().clone())
        self.painter_positions = nn.Parameter(model.decoder.pos_embed.detach().clone(), requires_grad=False)
        self.painter = nn.ModuleList(
            Block(shape.decoder.width, shape.decoder.num_heads, qkv_bias=True) for _ in range(shape.decoder.depth)
        )
        self.painter_norm = nn.LayerNorm(shape.decoder.width, eps=1e-6)
        self.paint = nn.Linear(shape.decoder.width, shape.patch**2 * 3)
        pairs = [
            (self.embed, model.encoder.patch_embed.proj),
            (self.blocks, model.encoder.blocks),
            (self.norm, model.encoder.norm),
            (self.narrow, model.decoder.embed),
            (self.painter, model.decoder.blocks),
            (self.painter_norm, model.decoder.norm),
            (self.paint, model.decoder.predict),
        ]
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())
        use_fused_attention(self, on=False)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """(B, 3, S, S) normalised and (B, N) uniform noise -> the loss."""
        batch, patch = len(images), self.patch
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        count, width = tokens.shape[1:]
        order = noise.argsort(1)
        back = order.argsort(1)
        kept = int(count * 0.25)
        visible = tokens.gather(1, order[:, :kept, None].repeat(1, 1, width))
        hidden = torch.ones(batch, count, device=images.device)
        hidden[:, :kept] = 0
        hidden = hidden.gather(1, back)
        tokens = torch.cat([(self.cls_token + self.positions[:, :1]).expand(batch, -1, -1), visible], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.narrow(self.norm(tokens))
        blank = self.mask_token.repeat(batch, count - kept, 1)
        both = torch.cat([tokens[:, 1:], blank], 1)
        both = both.gather(1, back[:, :, None].repeat(1, 1, both.shape[2]))
        tokens = torch.cat([tokens[:, :1], both], 1) + self.painter_positions
        for block in self.painter:
            tokens = block(tokens)
        painted = self.paint(self.painter_norm(tokens))[:, 1:]
        side = images.shape[2] // patch
        target = images.reshape(batch, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1).reshape(batch, count, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        loss = ((painted - target) ** 2).mean(-1)
        return (loss * hidden).sum() / hidden.sum()


def groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    used = [each for each in model.parameters() if each.requires_grad]
    return [
        {"params": [each for each in used if each.ndim > 1], "weight_decay": DECAY},
        {"params": [each for each in used if each.ndim <= 1], "weight_decay": 0.0},
    ]


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor], device: str, precision: str
) -> float:
    with autocast(device, precision):
        loss = loss_of()
    told = loss.item()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    torch.nn.utils.get_total_norm(grads)
    optimizer.step()
    return told


def mask_of(noise: Tensor, ratio: float = 0.75) -> Mask:
    order = noise.argsort(1)
    kept = int(noise.shape[1] * (1 - ratio))
    return Mask(order[:, :kept].contiguous(), order[:, kept:].contiguous(), order.argsort(1))


def way(model: nn.Module, images: Tensor, noise: Tensor, precision: str, fused: bool) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(groups(model), lr=RATE, betas=BETAS, fused=fused)
    mask = mask_of(noise)
    if isinstance(model, MaskedAutoencoder):
        return lambda: step(model, optimizer, lambda: model(images, mask=mask).loss, "cpu", precision)
    return lambda: step(model, optimizer, lambda: model(images, noise), "cpu", precision)


def assert_equal(ours: MaskedAutoencoder, theirs: PublishedMae, images: Tensor, noise: Tensor) -> None:
    losses = ours(images, mask=mask_of(noise)).loss, theirs(images, noise)
    for loss in losses:
        loss.backward()
    first, second = (loss.item() for loss in losses)
    off = 0.0
    for mine, other in (
        (ours.encoder.patch_embed.proj.weight, theirs.embed.weight),
        (ours.encoder.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight),
        (ours.decoder.mask_token, theirs.mask_token),
        (ours.decoder.predict.weight, theirs.paint.weight),
    ):
        assert mine.grad is not None and other.grad is not None
        off = max(off, float((mine.grad - other.grad).norm() / other.grad.norm()))
    apart = abs(first - second)
    assert apart < 1e-5 and off < 1e-5, f"losses {apart:.1e} apart, gradients {off:.1e}"
    print(f"equal: loss {second:.7f}, {apart:.0e} apart; gradients {off:.0e} apart (relative)")
    for model in (ours, theirs):
        model.zero_grad(set_to_none=True)


def pretraining(name: str, patch: int, batch: int, rounds: int, levers: bool) -> None:
    ours = create(name, patch=patch, seed=0)
    light = create(name, patch=patch, seed=0, decoder=LIGHT, options=MaeOptions(decoded=0.5))
    assert isinstance(ours, MaskedAutoencoder)
    theirs = PublishedMae(ours)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 112, 112, generator=random)
    noise = torch.rand(batch, ours.architecture.num_patches, generator=random)
    assert_equal(ours, theirs, images[:4], noise[:4])
    rival, honest, equal, short = (
        "published recipe, fp32",
        "published recipe, bf16 autocast",
        "ours, equal work",
        "ours, 4-block decoder, half decoded",
    )
    ways = {
        rival: way(theirs, images, noise, "fp32", False),
        honest: way(copy.deepcopy(theirs), images, noise, "bf16", False),
        equal: way(copy.deepcopy(ours), images, noise, "bf16", True),
        short: way(light, images, noise, "bf16", True),
    }
    if levers:
        fused_attention = copy.deepcopy(ours)
        use_fused_attention(fused_attention, on=True)
        ways |= {
            "ours, equal work, fp32, plain AdamW": way(copy.deepcopy(ours), images, noise, "fp32", False),
            "ours, equal work, bf16, plain AdamW": way(copy.deepcopy(ours), images, noise, "bf16", False),
            "ours, equal work, SDPA attention": way(fused_attention, images, noise, "bf16", True),
        }
    seconds = interleave(ways, rounds)
    table(f"{name} patch {patch}, 112 px, batch {batch}, a whole step", seconds, equal, batch, "images")
    for mine in (equal, short):
        for other in (rival, honest):
            print(f"  {mine}: {median_range(ratios(seconds[other], seconds[mine]))}x the {other}")


def scoring(name: str, batch: int, rounds: int) -> None:
    """Bytes of faces to years, against timm's own network on tensors that are ready, both with bf16 weights."""
    model = create(name, task="age", seed=0)
    width, depth, heads = model.architecture.width, model.architecture.depth, model.architecture.num_heads
    bare = VisionTransformer(112, 16, num_classes=1, embed_dim=width, depth=depth, num_heads=heads).eval().bfloat16()
    sdpa = copy.deepcopy(bare)
    use_fused_attention(bare, on=False)
    scorer = Scorer(model, batch=batch)
    faces = np.random.default_rng(0).integers(0, 256, (batch * 4, 112, 112, 3), np.uint8)
    ready = torch.from_numpy(faces).permute(0, 3, 1, 2).bfloat16() / 255

    def loop(network: nn.Module) -> list[Tensor]:
        with torch.inference_mode():
            return [network(ready[start : start + batch]) for start in range(0, len(ready), batch)]

    ways: dict[str, Callable[[], object]] = {
        "fahr.scoring, bytes to years": lambda: scorer.predict(faces),
        "timm bf16, bare loop, plain attention": lambda: loop(bare),
        "timm bf16, bare loop, as it comes (SDPA)": lambda: loop(sdpa),
    }
    table(f"{name}/16 scoring, batch {batch}", interleave(ways, rounds), next(iter(ways)), len(faces), "faces")


def peak(device: str) -> float:
    """Floating-point operations a second of a large bf16 product of matrices, the best of ten."""
    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def card(name: str, device: str, batches: list[int], rounds: int) -> None:
    """Samples a second and the share of the measured bf16 peak, with and without compile."""
    most = peak(device)
    print(f"{device}: bf16 products of matrices at {most / 1e12:.1f} TFLOP/s measured")
    for patch, task in ((8, "mae"), (16, "mae"), (8, "age"), (16, "age")):
        for batch in batches:
            for compiled in (False, True):
                rate, work = sustained(name, patch, task, batch, device, compiled, rounds)
                print(
                    f"  {task} patch {patch}, batch {batch}{', compiled' if compiled else ''}: {rate:,.0f} samples/s, "
                    f"{rate * work / most:.0%} of the peak"
                )


def sustained(
    name: str, patch: int, task: str, batch: int, device: str, compiled: bool, rounds: int
) -> tuple[float, float]:
    """Samples a second of whole steps, and the floating-point operations of one sample, forward and backward."""
    model = create(name, patch=patch, task=task, seed=0).to(device).train()
    use_fused_attention(model, on=device == "cuda")
    optimizer = torch.optim.AdamW(groups(model), lr=RATE, betas=BETAS, fused=True)
    images = torch.randn(batch, 3, 112, 112, device=device)
    run = torch.compile(model) if compiled else model

    def loss_of(network: Callable[[Tensor], Any], some: Tensor) -> Tensor:
        out = network(some)
        loss: Tensor = out.loss if task == "mae" else out.mean()
        return loss

    with FlopCounterMode(display=False) as counter, autocast(device, "bf16"):
        loss_of(model, images[:1]).backward()
    seconds = []
    for number in range(rounds + 3):  # three to warm up and compile
        began = time.perf_counter()
        step(model, optimizer, lambda: loss_of(run, images), device, "bf16")
        wait(device)
        if number >= 3:
            seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds), float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="+", help="measure shares of the peak at these batch sizes")
    options = parser.parse_args()
    if options.device == "cuda" or options.batches:
        card(options.model, options.device, options.batches or [512, 1024, 2048, 4096], options.rounds)
        return
    pretraining(options.model, 16, options.batch, options.rounds, levers=True)
    pretraining(options.model, 8, options.batch, options.rounds, levers=False)
    scoring(options.model, options.batch, options.rounds)


if __name__ == "__main__":
    main()
