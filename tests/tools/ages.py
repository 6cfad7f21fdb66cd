"""Pictures from which an age can be read, in the splits and columns of a cohort, and a run small enough to learn it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import finetune_age
from tools.faces import jpegs

COUNT, SIZE = 320, 32
RNG = np.random.default_rng(3)
AGES = RNG.uniform(18, 90, COUNT).round(1)
SPLITS = ["train", "train", "train", "tune", "calibrate", "calibrate", "test", "test"]
SPLIT = [SPLITS[number // 2 % 8] for number in range(COUNT)]  # two photos a person


def picture(age: float) -> NDArray[np.uint8]:
    """(S, S, 3): the older, the darker, under noise."""
    return np.clip(220 - 1.6 * age + RNG.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


FACES = jpegs([picture(age) for age in AGES])
COLUMNS: dict[str, Any] = {
    "age": list(AGES), "split": SPLIT, "sex": ["f", "m"] * (COUNT // 2),
    "dataset": [("one", "two")[number // 16 % 2] for number in range(COUNT)],
    "site": [None] * COUNT,
}  # fmt: skip


def options(faces: str, output: Any, **changes: Any) -> finetune_age.Options:
    """Two stages of a small network."""
    return finetune_age.Options.model_validate(
        {
            "faces": faces, "output": str(output), "init": "random", "encoder": "vit_tiny", "patch": 16,
            "stages": [
                {"name": "all", "epochs": 8},
                {"name": "balanced", "epochs": 2, "balanced": True, "base_lr": 2e-3, "datasets": ["one", "two"]},
            ],
            "base_lr": 2e-2, "global_batch": 24, "micro_batch": 24, "workers": 0, "threads": 1, "precision": "fp32",
            "bootstraps": 50, "judge_epochs": 2, "augmentation": {"mirror": 0.5}, "layer_decay": 1.0, "drop_path": 0.0,
            "fewest": 30,
        }
        | changes
    )  # fmt: skip
