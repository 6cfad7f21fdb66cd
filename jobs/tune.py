"""Search the settings of a fine-tune job: best.yaml, whether it beats the default beyond noise, and a page to look at.

Laptop:   python jobs/tune.py --task survival --config configs/tune_survival.yaml --faces out/align \\
              --init out/mae/checkpoint --output out/tune
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/tune.py --task survival --config configs/tune_survival.yaml --faces s3://bucket/align \\
              --init s3://bucket/mae/checkpoint --output s3://bucket/tune --mode both --workers 1 --gpus-per-worker 1

People of the splits `train` and `tune` are searched on, but for a share of them that is kept aside; those of `test` and
`calibrate` are never looked at. Trial 0 is the default. The best few and the default are judged again with other seeds;
the best of these, and the default, are then measured once on the people kept aside. docs/tune.md tells what it means.
"""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from fahr import store
from fahr.config import JobOptions, Location, option
from fahr.search.choice import Method
from fahr.search.spaces import DEFAULTS
from jobs import _tune_run, finetune_age, finetune_survival
from jobs._run import Init

JOBS = {"survival": finetune_survival, "age": finetune_age}


class Options(JobOptions):
    """Search the settings of a fine-tune job. Research use only.

    python jobs/tune.py --task survival --faces out/align --init out/mae/checkpoint --output out/tune
    """

    task: Literal["survival", "age"] = option(help="whose settings: of jobs/finetune_survival.py or finetune_age.py")
    faces: Location = option(help="aligned faces: the output of jobs/align.py", result=False)
    init: Init = option(help="weights to begin with: a checkpoint, a name it is known by, imagenet, or random")
    output: Location = option(help="folder of the search", result=False)
    base: Location | None = option(
        None, help="configuration of that job to search around, a YAML file; it is trial 0", off="none: its defaults"
    )
    mode: Literal["features", "full", "both"] = option(
        "features", help="a trial is a head on frozen features, or the job itself; both: the best heads again in full"
    )
    space: dict[str, Any] | None = option(
        None, help="what is searched: parameter -> a list, or {low, high, log, whole, points}; docs/tune.md",
        off="none: all of configs/tune_TASK.yaml",
    )  # fmt: skip
    search: Method = option("tpe", help="who says what is tried next")
    scheduler: Literal["asha", "none", "pbt"] = option(
        "none", help="asha stops trials that are worse than most; pbt searches a schedule of head_lr", off="none"
    )
    grace: int = option(3, ge=1, help="passes before which no trial is stopped", unit="passes")
    parts: int = option(4, ge=2, help="of pbt: parts of a head's length, each with a rate of its own", unit="parts")
    samples: int = option(50, ge=1, help="trials in all, the default included", unit="trials")
    tune_folds: int = option(
        4, ge=2, help="of a head: people are dealt into so many folds, and each is judged once by a head that has not "
        "seen him or her", unit="folds",
    )  # fmt: skip
    aside: float = option(0.25, gt=0, le=0.5, help="people kept aside until the search is over", unit="share")
    finalists: int = option(3, ge=1, help="best trials that are judged again, beside the default", unit="trials")
    seeds: int = option(3, ge=1, help="other seeds that finalists are judged with", unit="seeds")
    bootstraps: int = option(1000, ge=0, help="resamples of people behind each interval", off="0", unit="resamples")
    seed: int = option(
        0,
        ge=0,
        lt=2**31,
        help="decides who is kept aside, what is tried, and trials' first weights",
        unit="any whole number",
    )
    resume: bool = option(False, help="go on with the search that --output holds", off="false", result=False)
    concurrent: int | None = option(
        None, ge=1, help="trials at a time", off="none: as many as fit", unit="trials", result=False
    )
    cpus_per_trial: float = option(1.0, gt=0, help="CPU that a head trial reserves", unit="CPU", result=False)
    embed_workers: int = option(2, ge=1, help="actors that make features", unit="actors", result=False)
    workers: int = option(
        0, ge=0, help="training processes of a full trial; 0: the trial's own", unit="processes", result=False
    )
    cpus_per_worker: float = option(1.0, gt=0, help="CPU that each of them reserves", unit="CPU", result=False)
    gpus_per_worker: float = option(
        0.0, ge=0, help="GPU that each reserves, and each actor that makes features", unit="GPU", off="0", result=False
    )
    memory_per_worker: float = option(2.0, gt=0, help="heap that each reserves", unit="GiB", result=False)
    features: Location | None = option(
        None, help="folder for features, kept by digest; several searches may share it", off="none: OUTPUT/features",
        result=False,
    )  # fmt: skip
    cache: Location | None = option(
        None, help="local folder for a copy of the faces", off="none: OUTPUT/cache, or the system's if that is s3://",
        result=False,
    )  # fmt: skip

    @field_validator("space", mode="before")
    @classmethod
    def _names(cls, space: Any) -> Any:
        if space is not None and not isinstance(space, dict | str):
            raise ValueError("give parameters and values, such as {tau: [0.5, 2], events: {low: 0.1, high: 0.5}}")
        return space

    @model_validator(mode="after")
    def _fits(self) -> "Options":
        if self.scheduler == "pbt" and self.mode != "features":
            raise ValueError("scheduler pbt: finds a schedule of the head's rate, so it is for --mode features alone")
        return self

    def searched(self) -> dict[str, Any]:
        """The space as it was given, or that of the task."""
        return DEFAULTS[self.task] if self.space is None else self.space

    def features_folder(self) -> str:
        return self.features or store.join(self.output, "features")


def main(options: Options) -> store.Ledger:
    """The search, or what is left of it; then the page. The ledger's rows are trials."""
    return _tune_run.search(options, JOBS[options.task])


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.tune import Options, main

    run_job(Options, main)
