"""Pictures from which age and frailty can be read, people who died by both, and a run small enough to learn it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import finetune_survival
from tools.faces import jpegs

COUNT, SIZE = 480, 32
RNG = np.random.default_rng(5)
PERSON = np.repeat(np.arange(COUNT // 2), 2)  # two photos each
PEOPLE = COUNT // 2
AGE = RNG.uniform(40, 80, PEOPLE)
FRAILTY = RNG.normal(0, 1, PEOPLE)
HAZARD = 0.05 * (AGE - 60) + FRAILTY  # log, against somebody of 60 who is not frail
SPLITS = ("train", "train", "train", "tune", "test", "calibrate", "test", "train")
SPLIT = [SPLITS[person % 8] for person in PERSON]

_DEATH = RNG.exponential(1500 * np.exp(-HAZARD))
_CLOSED = RNG.uniform(500, 3000, PEOPLE)
DAYS = np.ceil(np.minimum(_DEATH, _CLOSED))[PERSON]
EVENT = (_DEATH <= _CLOSED).astype(int)[PERSON]


def picture(age: float, frailty: float) -> NDArray[np.uint8]:
    """(S, S, 3): the older, the less red; the frailer, the less green; under noise."""
    shade = np.array([250 - 2.5 * age, 128 - 32 * frailty, 128.0])
    return np.clip(shade + RNG.normal(0, 14, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


FACES = jpegs([picture(AGE[person], FRAILTY[person]) for person in PERSON])
COLUMNS: dict[str, Any] = {
    "subject_id": [f"s{person:04d}" for person in PERSON],
    "age": list(AGE[PERSON].round(1)),
    "sex": [("f", "m")[person // 8 % 2] for person in PERSON],
    "split": SPLIT,
    "follow_up_days": list(DAYS),
    "event": [int(each) for each in EVENT],
    "dataset": [("one", "two")[person // 8 % 2] for person in PERSON],
}


def options(faces: str, output: Any, **changes: Any) -> finetune_survival.Options:
    """Two stages of a small network: the head, then all."""
    return finetune_survival.Options.model_validate(
        {
            "faces": faces, "output": str(output), "init": "random", "encoder": "vit_tiny", "patch": 16,
            "stages": [
                {"name": "head", "epochs": 1, "freeze": "encoder", "base_lr": 1e-2},
                {"name": "all", "epochs": 4, "patience": 3},
            ],
            "base_lr": 4e-3, "global_batch": 32, "micro_batch": 32, "workers": 0, "threads": 1, "precision": "fp32",
            "bootstraps": 40, "judge_epochs": 1, "augmentation": {"mirror": 0.5}, "layer_decay": 1.0, "drop_path": 0.1,
            "min_lr": 0.0,
        }
        | changes
    )  # fmt: skip
