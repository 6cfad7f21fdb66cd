"""The whole chain from one file: align, pretrain, age, survival, score, evaluate. What is done is not done again.

Laptop:   python jobs/pipeline.py --config configs/laptop_pipeline.yaml --manifest people.parquet --output out/pipeline
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/pipeline.py --config configs/cluster_pipeline.yaml --manifest s3://bucket/people.parquet \\
              --output s3://bucket/run

One section a stage, with that job's own options; what a section does not say of places comes from the stage before.
Before anything starts, the plan tells where each stage stands, and resources are asked for. Kill it anywhere and run
the same line again. A changed setting begins that stage anew, and what stands on it, in folders beside the old ones.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from pydantic import model_validator

from fahr import store
from fahr.config import JobOptions, Location, option
from fahr.errors import Refused
from jobs import _run, align, evaluate, finetune_age, finetune_survival, pretrain, score
from jobs._photos import PhotoOptions
from jobs._pipeline import Chain, Clock, Section, Standing, Step, asked_to_stop, spell
from jobs._run import RunOptions

Stage = Literal["align", "pretrain", "age", "survival", "score", "evaluate"]


def _stage(job: str) -> Any:
    return option(
        {}, help=f"settings of jobs/{job}.py; `config` among them: a recipe to begin with", off="its defaults"
    )


class Options(JobOptions):
    """The whole chain from one file. What is done is not done again. Research use only.

    python jobs/pipeline.py --config configs/laptop_pipeline.yaml --manifest people.parquet --output out/pipeline
    """

    manifest: Location | None = option(
        None, help="the photos: a manifest (.csv, .parquet, or a folder of Parquet)",
        off="none: the section align names it", result=False,
    )  # fmt: skip
    output: Location = option(help="folder of the pipeline, with a folder for each stage", result=False)
    stages: tuple[Stage, ...] = option(
        get_args(Stage), help="those that take part; what one left out would give, others have to be told", min_length=1
    )
    align: dict[str, Any] = _stage("align")
    pretrain: dict[str, Any] = _stage("pretrain")
    age: dict[str, Any] = _stage("finetune_age")
    survival: dict[str, Any] = _stage("finetune_survival")
    score: dict[str, Any] = _stage("score")
    evaluate: dict[str, Any] = _stage("evaluate")
    minutes: dict[Stage, float] = option(
        {}, help="stage -> what it is expected to take, for the time left", off="none: what it took before",
        unit="minutes", result=False,
    )  # fmt: skip

    @model_validator(mode="after")
    def _manifest_or_faces(self) -> "Options":
        if "align" in self.stages and self.manifest is None and "manifest" not in self.align:
            raise ValueError("--manifest: required, unless the section align names one or --stages leave align out")
        return self

    def sections(self) -> dict[str, Section]:
        """Of the stages that take part, in their order."""
        found: dict[str, Section] = {step.name: getattr(self, step.name) for step in STEPS if step.name in self.stages}
        if "align" in found and self.manifest is not None:
            found["align"] = {"manifest": self.manifest, **found["align"]}
        return found


def _checkpoint(options: RunOptions) -> str:
    return store.join(options.output, "checkpoint")


def _predictor(options: Any) -> str:
    """The checkpoint that people are scored with: with arms, that of the first."""
    if options.folds:
        raise Refused(f"folds {options.folds}: leave a model a fold, and none to score with. Leave them out here.")
    folders = [folder for folder, _ in options.starts().values()] if hasattr(options, "starts") else [options.output]
    return store.join(folders[0], "checkpoint")


STEPS: tuple[Step, ...] = (
    Step("align", align, grows=("manifest",)),
    Step("pretrain", pretrain, {"faces": "align"}, _checkpoint),
    Step("age", finetune_age, {"faces": "align", "init": "pretrain"}, _predictor),
    Step("survival", finetune_survival, {"faces": "align", "init": "pretrain"}, _predictor),
    Step(
        "score", score, {"faces": "align", "models": ("age", "survival")}, grows=("faces", "manifest"),
        instead={"faces": "manifest"},
    ),
    Step("evaluate", evaluate, {"scores": "score"}),
)  # fmt: skip


def places(output: str) -> dict[str, str]:
    """Stage -> its folder, of the newest run under `output`, of the stages that are done."""
    place = store.join(store.absolute(output), "pipeline.json")
    now: dict[str, str] = json.loads(store.read_bytes(place))["now"]
    return {stage: store.join(store.parent(place), folder) for stage, folder in now.items()}


def main(options: Options) -> store.Ledger:
    """Tell the plan, ask for resources, run what is not done, account for every photo."""
    chain = Chain(STEPS, options.sections(), options.output)
    standings = chain.stand()
    clock = Clock(_expected(options, chain))
    _tell(options, standings, clock)
    _resources(standings)
    if options.dry_run:
        return store.Ledger("pipeline", 0, 0)
    found: dict[str, Standing] = {}
    for planned in standings:
        name = planned.step.name
        found[name] = chain.at(planned.step, found)  # what it waited for is there now
        if found[name].state != "done":
            todo = [each.step.name for each in standings[len(found) - 1 :] if each.state != "done"]
            found[name] = _run_stage(chain, found[name], clock, todo)
        elif planned.state != "done":
            print(f"pipeline: {name}: what it stands on came out as before, so it is done")
    chain.point(found.values())
    options.write(store.join(options.output, "options.yaml"))
    ledger = _account(options, found)
    ledger.write(store.join(options.output, "ledger.json"))
    for name, each in found.items():
        print(f"  {name:10s}{each.options.output}")
    print(f"{ledger.line()} | {spell(time.monotonic() - clock.started)}")
    return ledger


def _expected(options: Options, chain: Chain) -> dict[str, float]:
    """Stage -> seconds: as the recipe says, or as they were when it ended last."""
    runs = sorted(chain.notes()["runs"].values(), key=lambda run: float(run["ended"]))
    took = {run["stage"]: run["seconds"] for run in runs if run["seconds"] is not None}
    return took | {name: 60 * minutes for name, minutes in options.minutes.items()}


def _tell(options: Options, standings: Sequence[Standing], clock: Clock) -> None:
    """The plan: a line a stage."""
    todo = [each.step.name for each in standings if each.state != "done"]
    print(f"pipeline: {options.output}: {len(standings) - len(todo)} of {len(standings)} stages are done")
    for each in standings:
        left = clock.left([each.step.name]) if each.state != "done" else None
        about = f"about {spell(left)}" if left is not None else ""
        print(f"  {each.step.name:10s}{each.state:9s}{each.folder:20s}{about:14s}{each.why}".rstrip())
    if todo:
        left = clock.left(todo)
        print(f"pipeline: {'time left is not known' if left is None else f'about {spell(left)} left'}", flush=True)


def _resources(standings: Sequence[Standing]) -> None:
    """Refused before the first stage takes its hours: what the cluster is too small for, of any stage."""
    for each in standings:
        if each.state == "done":
            continue
        try:
            if isinstance(each.options, PhotoOptions):
                each.options.pool(each.step.name)
            elif isinstance(each.options, RunOptions):
                _run.check(each.options, each.step.name)
        except Refused as error:
            raise Refused(f"{each.step.name}: {error}") from error


def _run_stage(chain: Chain, standing: Standing, clock: Clock, todo: Sequence[str]) -> Standing:
    """The stage by its job; where it stands then. `todo`: the stages that are left, this one too."""
    name, began = standing.step.name, time.monotonic()
    left = clock.left(todo)
    about = "" if left is None else f", about {spell(left)} left"
    print(f"pipeline: {name}: {standing.state} in {standing.folder}; {spell(began - clock.started)} so far{about}",
          flush=True)  # fmt: skip
    with asked_to_stop() as asked:
        try:
            standing.step.job.main(standing.options)
        except Refused as error:
            raise Refused(f"{name}: {error}") from error
        took = time.monotonic() - began
        clock.ended(name, took)
        chain.note(standing, took)
        print(f"pipeline: {name}: done in {spell(took)}", flush=True)
        if asked():
            raise KeyboardInterrupt(f"after {name}")
    return replace(standing, state="done", why="")


def _account(options: Options, found: Mapping[str, Standing]) -> store.Ledger:
    """From photos to scores: every photo was scored, or is a reject of either. Else the last stage's account."""
    ledgers = {name: store.Ledger.read(store.join(each.options.output, "ledger.json")) for name, each in found.items()}
    more = {"stages": {name: each.folder for name, each in found.items()}}
    whole = {"align", "score"} <= found.keys() and found["score"].options.faces == found["align"].options.output
    last = ledgers["score" if whole else list(found)[-1]]
    rejects = Counter(last.rejects) + (Counter(ledgers["align"].rejects) if whole else Counter())
    rows = ledgers["align"].rows_in if whole else last.rows_in
    return store.Ledger("pipeline", rows, last.rows_out, rejects, options.digest(), last.code_version, more).check()


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.pipeline import Options, main

    run_job(Options, main)
