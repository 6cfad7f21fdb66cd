"""Everything that decides how a model is trained, beside its data and its shape.

    recipe = Recipe(epochs=50).counted(40_600_000)
    recipe.num_steps, recipe.peak_rate    # 495,605 and 0.0024

Lengths are in samples, never in epochs or steps: they mean the same for every batch and every number of workers.
"""

from pydantic import model_validator

from fahr.config import Options, option
from fahr.errors import Refused, nearest
from fahr.models.precision import PRECISIONS


class Recipe(Options):
    epochs: float | None = option(
        None, gt=0, help="length of the run, unless `samples` says it", off="none", unit="passes over the faces"
    )
    samples: int | None = option(
        None, ge=1, help="length of the run, unless `epochs` says it", off="none", unit="faces, repeats counted"
    )
    global_batch: int = option(4096, ge=1, help="samples that decide one step, over all workers", unit="samples")
    micro_batch: int = option(
        256,
        ge=1,
        help="most samples that a device holds at once; the rest is accumulated",
        result=False,
        unit="samples",
    )
    base_lr: float = option(
        1.5e-4, gt=0, help="learning rate of a batch of 256; it grows in proportion to global_batch", unit="per step"
    )
    warmup_samples: int | None = option(
        None,
        ge=0,
        help="samples over which the learning rate rises from 0; none: a fortieth of the run",
        off="0",
        unit="samples",
    )
    min_lr: float = option(
        0.0, ge=0, help="learning rate at the end, not scaled with the batch", off="0", unit="per step"
    )
    weight_decay: float = option(
        0.05, ge=0, help="AdamW's, on matrices only", off="0", unit="per step, times the learning rate"
    )
    betas: tuple[float, float] = option((0.9, 0.95), help="AdamW's memory of gradients and of their squares")
    layer_decay: float = option(
        1.0,
        gt=0,
        le=1,
        help="how much slower each block learns than the one after it; head and decoder: 1",
        off="1",
        unit="factor",
    )
    drop_path: float = option(
        0.0, ge=0, lt=1, help="share of images that skip the last block's branches", off="0", unit="share"
    )
    clip: float = option(0.0, ge=0, help="longest gradient that is applied as it is", unit="L2 norm", off="0")
    ema: float = option(0.0, ge=0, lt=1, help="memory of the running mean of weights, a step", off="0", unit="share")
    precision: str = option("bf16", help=f"of matrix products: {', '.join(PRECISIONS)}")
    compile: bool = option(False, help="compile the blocks with torch.compile", off="false", result=False)
    seed: int = option(
        0, ge=0, lt=2**63, help="decides weights, order, masks and augmentation", unit="any whole number"
    )
    nonfinite_limit: int = option(
        10,
        ge=0,
        help="steps with a loss or gradient that is not finite: so many are skipped, one more ends the run",
        unit="steps",
    )

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        problems = []
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            problems.append(f"precision {self.precision!r}: not one of {known}.{nearest(self.precision, PRECISIONS)}")
        if (self.epochs is None) == (self.samples is None):
            remedy = "Give one of them" if self.epochs is None else "Set one of them to none"
            given = f"epochs {self.epochs} and samples {self.samples}"
            problems.append(f"{given}: exactly one must be given. {remedy}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas {self.betas}: each must be at least 0 and below 1. Give (0.9, 0.95).")
        if self.min_lr > self.peak_rate:
            problems.append(
                f"min_lr {self.min_lr:g}: is above the highest rate, {self.peak_rate:g} (base_lr {self.base_lr:g} x "
                f"{self.global_batch} / 256). Give at most that."
            )
        if self.samples is not None:
            problems += self._length_problems(self.samples)
        if problems:
            raise ValueError(" ".join(problems))
        return self

    def _length_problems(self, samples: int) -> list[str]:
        problems = []
        if samples < self.global_batch:
            problems.append(
                f"samples {samples:,}: fewer than one global batch of {self.global_batch:,}, so not a step would be "
                "made. Give more samples or epochs, or a smaller global_batch."
            )
        if self.warmup_samples is not None and self.warmup_samples > samples:
            problems.append(
                f"warmup_samples {self.warmup_samples:,}: more than the {samples:,} samples of the run. Give fewer."
            )
        return problems

    @property
    def peak_rate(self) -> float:
        return self.base_lr * self.global_batch / 256

    def counted(self, num_rows: int) -> "Recipe":
        """The same recipe for a set of `num_rows`, its length in samples. Refused: a run without a step."""
        if num_rows < 1:
            raise Refused(f"{num_rows} faces: nothing to train on. Give a folder in which faces are committed.")
        if self.samples is not None:
            return self
        assert self.epochs is not None
        samples = round(self.epochs * num_rows)
        if problems := self._length_problems(samples):
            raise Refused(f"epochs {self.epochs:g} of {num_rows:,} faces: " + " ".join(problems))
        return type(self).model_validate({**self.model_dump(), "epochs": None, "samples": samples})

    @property
    def num_samples(self) -> int:
        if self.samples is None:
            raise TypeError("the length is known in epochs only: ask `counted(num_rows)` for the recipe first.")
        return self.samples

    @property
    def num_warmup(self) -> int:
        """Samples. A fortieth is MAE's share: 40 epochs of 1,600."""
        return self.num_samples // 40 if self.warmup_samples is None else self.warmup_samples

    @property
    def num_steps(self) -> int:
        """Whole global batches: what is left over is not trained on."""
        return self.num_samples // self.global_batch

    def accumulation(self, world: int) -> int:
        """Micro-batches of a device in one step: the same on all workers, whose shares differ by one sample at most."""
        if world > self.global_batch:
            raise Refused(
                f"global_batch {self.global_batch}: over {world} workers leaves some without a sample. Give a larger "
                f"batch, or {self.global_batch} workers at most."
            )
        share = -(-self.global_batch // world)
        parts = -(-share // self.micro_batch)
        if self.global_batch // world < parts:
            raise Refused(
                f"micro_batch {self.micro_batch}: one worker of {world} would have fewer than the {parts} micro-"
                f"batches of the others (global_batch {self.global_batch}). Give {self.micro_batch + 1}."
            )
        return parts
