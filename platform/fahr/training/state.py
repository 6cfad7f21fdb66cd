"""Everything that decides the rest of a run, in one file, so that a killed run goes on as if nothing had happened.

    state = fresh(model, recipe)
    save("runs/mae/state.safetensors", state, digest)      # whole or not at all
    load("runs/mae/state.safetensors", state, digest)      # into a fresh state of the same recipe

No generator's state is in it: masks, augmentation, drop path and order are functions of seed and position, and torch's
own generators are seeded by position at every step. So a run may go on with another number of workers.
`snapshot` (copies, in memory) and `write` are apart, so that a job can write while it trains on.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from fahr import store
from fahr.errors import Refused
from fahr.models import MaskedAutoencoder, Predictor
from fahr.training.average import Average
from fahr.training.optimizer import make_optimizer
from fahr.training.recipe import Recipe

FORMAT = "fahr-training-state-1"
_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW knows of a parameter


class Damaged(Refused):
    """A file that is no state, or no longer."""


@dataclass
class State:
    model: MaskedAutoencoder | Predictor
    optimizer: torch.optim.AdamW
    average: Average | None
    position: int = 0  # samples consumed, those of skipped steps included
    skipped: int = 0  # steps skipped for a loss or gradient that was not finite
    bad: dict[int, str] = field(default_factory=dict)  # faces that did not decode: row -> why


@dataclass(frozen=True)
class Snapshot:
    """A copy that training on does not change."""

    tensors: dict[str, Tensor]  # on the CPU
    facts: dict[str, Any]  # digest, position, skipped, bad


def fresh(model: MaskedAutoencoder | Predictor, recipe: Recipe) -> State:
    """The state before the first step. The model is on its device, and sharded if it is to be sharded."""
    average = Average(model, recipe.ema) if recipe.ema else None
    return State(model, _begun(make_optimizer(model, recipe)), average)


def snapshot(state: State, digest: str) -> Snapshot:
    """Every worker calls it when the model is sharded; what it gives is the same for all, and one writes it."""
    tensors = {name: _whole(each) for name, each in _live(state).items()}
    facts = {"format": FORMAT, "digest": digest, "position": state.position, "skipped": state.skipped,
             "bad": {str(row): why for row, why in state.bad.items()}}  # fmt: skip
    return Snapshot(tensors, facts)


def write(location: str, snapshot: Snapshot) -> None:
    facts = {**snapshot.facts, "checksum": _checksum(snapshot.tensors)}
    metadata = {"fahr": json.dumps(facts)}
    store.write_bytes(location, safetensors.torch.save(snapshot.tensors, metadata))


def save(location: str, state: State, digest: str) -> None:
    write(location, snapshot(state, digest))


def read(location: str, digest: str) -> Snapshot:
    """Refused: a file that is no state, and the state of a run with another configuration."""
    data = store.read_bytes(location)
    try:
        tensors = safetensors.torch.load(data)
        (length,) = struct.unpack("<Q", data[:8])
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fahr"])
        found = facts["format"], facts["digest"], int(facts["position"]), int(facts["skipped"])
    except (SafetensorError, struct.error, KeyError, TypeError, ValueError) as error:
        raise Damaged(
            f"{location}: is not the state of a training run, or is damaged ({error}). Go back to the one before it, "
            "or delete it to begin anew."
        ) from error
    if found[0] == FORMAT and facts.pop("checksum", None) != _checksum(tensors):
        raise Damaged(f"{location}: its numbers are not those that were written: the disk or the copy is bad.")
    if found[0] != FORMAT:
        raise Refused(f"{location}: has format {found[0]!r}, this code reads {FORMAT!r}. Begin anew elsewhere.")
    if found[1] != digest:
        raise Refused(
            f"{location}: is of a run with configuration {found[1]}, this one has {digest}. Give the options of "
            "before to go on with it, or another output folder to begin anew."
        )
    return Snapshot(tensors, facts)


@torch.no_grad()
def restore(snapshot: Snapshot, state: State) -> None:
    """Into a state of the same recipe, bit for bit. Refused, with nothing changed: other names or shapes."""
    live = _live(state)
    if different := sorted(live.keys() ^ snapshot.tensors.keys()):
        raise Refused(
            f"the saved state and this run differ in {len(different)} tensors, such as {different[0]}: another model "
            "or other options of the optimizer. Give those of before, or begin anew."
        )
    for name, each in live.items():
        if each.shape != snapshot.tensors[name].shape:
            shapes = f"{tuple(snapshot.tensors[name].shape)} saved, {tuple(each.shape)} here"
            raise Refused(f"the saved state does not fit: {name} is {shapes}. Give the model of before.")
    for name, each in live.items():
        saved = snapshot.tensors[name].to(each.device)
        each.copy_(distribute_tensor(saved, each.device_mesh, each.placements) if isinstance(each, DTensor) else saved)
    state.position, state.skipped = int(snapshot.facts["position"]), int(snapshot.facts["skipped"])
    state.bad = {int(row): why for row, why in snapshot.facts.get("bad", {}).items()}


def fill(model: nn.Module, snapshot: Snapshot) -> None:
    """The weights of a snapshot, their running mean where there is one, into a whole model."""
    tensors = {}
    for name in model.state_dict():
        mean = snapshot.tensors.get(f"average/{name}")
        tensors[name] = snapshot.tensors[f"model/{name}"] if mean is None else mean
    model.load_state_dict(tensors)


def load(location: str, state: State, digest: str) -> None:
    restore(read(location, digest), state)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Local files have none of their own, and a run that goes on from a flipped bit is wrong without a word."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        running.update(name.encode())
        running.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return running.hexdigest()


def _live(state: State) -> dict[str, Tensor]:
    """Every tensor of the state under a name that does not depend on the order or the number of groups."""
    live = {f"model/{name}": each for name, each in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for slot, each in state.optimizer.state.get(parameter, {}).items():
            live[f"{slot}/{name}"] = each
    if state.average is not None:
        live |= {f"average/{name}": each for name, each in state.average.weights.items()}
    return live


def _begun(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """With the zeros that AdamW makes at its first step: a state is of the same tensors before and after it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            zeros = torch.zeros_like(parameter), torch.zeros_like(parameter)
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = dict(zip(_SLOTS, (step, *zeros), strict=True))
    return optimizer


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.to("cpu", copy=True).contiguous()
