"""The learning rate as a function of the samples seen: a straight rise, then half a cosine down."""

import math

from fahr.training.recipe import Recipe


def rate(samples_seen: int, recipe: Recipe) -> float:
    """The rate of the step that starts after `samples_seen` samples (0 for the first); `min_lr` past the end.

    Rise: peak * seen / warmup. Then min + (peak - min) * (1 + cos(pi * share)) / 2, where share = (seen - warmup) /
    (samples - warmup); peak = base_lr * global_batch / 256 (Goyal 2017; Loshchilov and Hutter 2017).
    """
    peak, warmup, end = recipe.peak_rate, recipe.num_warmup, recipe.num_samples
    if samples_seen < warmup:
        return peak * samples_seen / warmup
    if samples_seen >= end:
        return recipe.min_lr
    share = (samples_seen - warmup) / (end - warmup)
    return recipe.min_lr + (peak - recipe.min_lr) * (1 + math.cos(math.pi * share)) / 2
