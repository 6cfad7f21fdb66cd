"""The whole chain of jobs/pipeline.py in its smallest size: sections that 150 people run through in seconds."""

from typing import Any

HERE = {"workers": 0, "threads": 1}
LEARN: dict[str, Any] = {
    **HERE, "precision": "fp32", "bootstraps": 20, "judge_epochs": 5, "global_batch": 16, "micro_batch": 16,
    "augmentation": {"mirror": 0.5},
}  # fmt: skip
SECTIONS: dict[str, Any] = {
    "align": {"detector": "given", "size": 32, "workers": 1, "memory_per_worker": 0.2, "rows_per_unit": 80},
    "pretrain": {
        **HERE, "model": "vit_tiny", "patch": 16, "samples": 64, "global_batch": 32, "micro_batch": 32,
        "decoder": {"width": 32, "depth": 1, "num_heads": 2}, "judgements": 1, "judged_faces": 20, "precision": "fp32",
    },
    "age": {**LEARN, "stages": [{"name": "all", "samples": 64}], "fewest": 5},
    "survival": {**LEARN, "stages": [{"name": "all", "samples": 64}]},
    "score": {"workers": 1, "memory_per_worker": 0.2, "rows_per_unit": 200},
    "evaluate": {"bootstraps": 20},
}  # fmt: skip
