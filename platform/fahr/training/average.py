"""The running mean of a model's weights: steadier than the weights of any one step.

average = Average(model, decay=0.999)
average.update(model)             # after every step that moved the weights
with average.applied(model): ...  # judge or save the mean; the weights come back after
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: each.detach().clone() for name, each in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """mean <- decay * mean + (1 - decay) * weights"""
        current = [each.detach() for each in model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - self.decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the mean."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            mean: Tensor = self.weights[name]
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)
