"""The workers of a training job: in this process, or on a cluster by Ray Train.

    told = train(work, options, digest)

`work(options, digest, team) -> dict` runs on every worker and is a plain function: with `--workers 0` it is called
here, without Ray. What Ray Train adds is processes that meet, come back after a failure, and grow or shrink with the
cluster. States are ours (fahr.training.keeper), not Ray's: one format and one way to go on, whatever ran before; and a
run does not depend on which of Ray's checkpoints was registered before a node died.
"""

import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
import ray.train
import torch
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get
from ray.train.torch import TorchConfig, get_device
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig  # ray.train has them, but other types
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import distributed

from fahr.config import JobOptions, option
from fahr.errors import Refused
from fahr.progress import progress
from fahr.training.step import world_size
from jobs import _cluster
from jobs._board import Board, Row

T = TypeVar("T")


class WorkerOptions(JobOptions):
    """Where a training job runs: never what comes out."""

    workers: int = option(
        1,
        ge=0,
        help="training processes, at most; 0: one, in this process and without Ray",
        result=False,
        unit="processes",
    )
    min_workers: int | None = option(
        None,
        ge=1,
        help="go on with so many while the cluster has no more",
        off="none: as many as workers",
        result=False,
        unit="processes",
    )
    cpus_per_worker: float = option(1.0, gt=0, help="CPU that each reserves", unit="CPU", result=False)
    threads: int | None = option(
        None,
        ge=1,
        help="threads that each computes with",
        off="none: one a CPU it reserved, or all with workers 0",
        result=False,
        unit="threads",
    )
    gpus_per_worker: float = option(0.0, ge=0, help="GPU that each reserves", unit="GPU", off="0", result=False)
    memory_per_worker: float = option(2.0, gt=0, help="heap that each reserves", unit="GiB", result=False)
    strategy: Literal["ddp", "fsdp"] = option(
        "ddp", help="ddp: each worker has all weights; fsdp: a share of them, for models that do not fit", result=False
    )
    max_failures: int = option(
        3, ge=0, help="how often a run that broke goes on by itself", off="0", result=False, unit="times"
    )
    collective_timeout: float = option(
        600, gt=0, help="after which workers that wait for a lost one give up and go on anew", unit="s", result=False
    )
    resize_seconds: float = option(
        60, ge=0, help="how often an elastic run looks for more workers", unit="s", result=False
    )

    @property
    def num_workers(self) -> int | tuple[int, int]:
        return self.workers if self.min_workers is None else (self.min_workers, self.workers)


@dataclass(frozen=True)
class Team:
    """What a worker knows about where it runs."""

    device: torch.device
    tell: Callable[[Row], None]  # to the progress bar
    noticed: Callable[[], bool]  # is this machine about to be taken away? Asked by all workers at once.
    stop: Callable[[], bool]  # has somebody asked to stop?
    report: Callable[[Row], None]  # to Ray's dashboard, and to Tune; by all workers at once


Work = Callable[[Any, str, Team], dict[str, Any]]


class RefusedTogether(Refused):
    """By all workers, for the same reason."""


def together(make: Callable[[], T]) -> T:
    """What `make` gives, on each worker. Refused on one: refused on all, at once, with its reason.

    Without it the others would wait for the one that left, until the collective times out.
    """
    made, refused = None, None
    try:
        made = make()
    except Refused as error:
        refused = str(error)
    shares: list[Any] = [refused]
    if world_size() > 1:
        shares = [None] * world_size()
        distributed.all_gather_object(shares, refused)
    if told := list(dict.fromkeys(each for each in shares if each)):
        raise RefusedTogether("\n".join(told))
    return made  # type: ignore[return-value]


def train(
    work: Work,
    options: WorkerOptions,
    digest: str,
    *,
    name: str | None = None,
    callbacks: Sequence[Any] = (),
    report: Callable[[Row], None] = lambda row: None,
) -> dict[str, Any]:
    """What the first worker's `work` returned. `name`: of Ray's run. What workers report goes to Ray Train's
    `callbacks`; with `workers` 0 to `report`."""
    if options.workers == 0:
        return _here(work, options, digest, report)
    told = _on_ray(work, options, digest, name or f"run-{digest}", callbacks)
    if "refused" in told:
        raise Refused(told["refused"])
    return told


def check(options: WorkerOptions, stage: str) -> None:
    """Print the resources; refuse what can never run. An elastic run needs its least number of workers."""
    if options.workers == 0:
        print(f"{stage}: one worker in this process, {_threads(options)} threads, {_device_here(options)}")
        return
    least = options.workers if options.min_workers is None else options.min_workers
    if least > options.workers:
        raise Refused(f"--min-workers {least}: more than --workers {options.workers}. Give at most that.")
    _cluster.connect()
    pool = _cluster.Pool(
        stage, least, options.cpus_per_worker, options.gpus_per_worker, int(options.memory_per_worker * 2**30)
    )
    print(_cluster.check([pool], "Lower --workers, --min-workers or --cpus-per-worker, or start a larger cluster."))


def _threads(options: WorkerOptions) -> int:
    return options.threads or (max(1, int(options.cpus_per_worker)) if options.workers else os.cpu_count() or 1)


# In this process


def _here(work: Work, options: WorkerOptions, digest: str, report: Callable[[Row], None]) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(options))
    try:
        with _Bar() as bar, _asked_to_stop() as stop:
            return work(options, digest, Team(_device_here(options), bar.show, lambda: False, stop, report))
    finally:
        torch.set_num_threads(threads)


def _device_here(options: WorkerOptions) -> torch.device:
    if options.gpus_per_worker and not torch.cuda.is_available():
        raise Refused(f"--gpus-per-worker {options.gpus_per_worker:g}: no CUDA device is here. Give 0.")
    return torch.device("cuda", 0) if options.gpus_per_worker else torch.device("cpu")


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C came: the run then ends after its step, with a state. A second one ends it at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("stopping after this step, with a state; once more ends it at once", file=sys.stderr)

    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# On Ray


def _on_ray(work: Work, options: WorkerOptions, digest: str, name: str, callbacks: Sequence[Any]) -> dict[str, Any]:
    for variable, value in {
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": options.collective_timeout,  # Ray's own default: never
        # A group that can't start: its 60 s are short where nodes have to start and pull images. An elastic run keeps
        # them: after a node is lost Ray asks for as many workers as before, and only then for those that it can have.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 600 if options.min_workers is None else 60,
        "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": int(options.gpus_per_worker > 0),
        "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
    }.items():
        os.environ.setdefault(variable, str(value))
    actor: Any = Board  # Ray types it as the class
    board = actor.options(  # on this node: it must not die with a worker's
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ).remote()
    scratch = tempfile.mkdtemp(prefix="fahr-train-")  # Ray's notes about the run; what we go on from is in the output
    given = {"work": work, "options": options, "digest": digest, "board": board}
    trainer = _Trainer(
        functools.partial(_work_on_ray, given),  # Ray's train_loop_config makes its controller load all of the work
        torch_config=TorchConfig(timeout_s=int(options.collective_timeout)),
        scaling_config=ScalingConfig(
            num_workers=options.num_workers,
            use_gpu=options.gpus_per_worker > 0,
            resources_per_worker=_resources(options),
            elastic_resize_monitor_interval_s=options.resize_seconds,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=scratch,
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=options.max_failures),
        ),
    )
    try:
        with _Bar() as bar, _watching(board, bar):
            ended: Any = trainer.fit()  # its type is that of older runs, which returned nothing
            return dict(ended.return_value)
    except ray.train.TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, Refused):
                raise Refused(str(cause)) from error
        raise
    finally:
        ray.kill(board)
        shutil.rmtree(scratch, ignore_errors=True)


class _Trainer(TorchTrainer):
    """Ray's, without two processes that would do nothing for a run of ours but take time to load.

    One hands out shards of Ray's datasets, which we do not use. The other frees what a lost controller had reserved: to
    know of that it asks the dashboard, and where none runs it holds up the end of a run by 12 s, still asking. (A Ray
    without a dashboard is one that this process has started, and ends with it.)
    """

    def _create_default_callbacks(self) -> list[Any]:
        dashboard = _internal_kv_get("webui:url", namespace=KV_NAMESPACE_DASHBOARD)  # empty where none runs
        idle = (DatasetsCallback,) if dashboard else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, idle)]


def _resources(options: WorkerOptions) -> dict[str, float]:
    gpus = {"GPU": options.gpus_per_worker} if options.gpus_per_worker else {}
    return {"CPU": options.cpus_per_worker, "memory": options.memory_per_worker * 2**30, **gpus}


def _work_on_ray(config: dict[str, Any]) -> dict[str, Any]:
    """Of every worker. A refusal is returned, not raised: a run that broke is tried again, one that is wrong is not."""
    options, board = config["options"], config["board"]
    torch.set_num_threads(_threads(options))  # Ray leaves a worker with one
    team = Team(
        get_device(),
        _teller(board),
        # Of a node that was announced to go (`ray drain-node`); Ray looks every 5 s. It announces none by itself: a
        # hook of the cloud's own notice has to.
        lambda: ray.train.get_preemption_info() is not None,
        lambda: False,
        lambda row: ray.train.report(dict(row)),
    )
    try:
        told: dict[str, Any] = config["work"](options, config["digest"], team)
        return told
    except Refused as error:
        if world_size() > 1 and not isinstance(error, RefusedTogether):
            raise  # the others do not know of it: only the end of the group frees them
        return {"refused": str(error)}


def _teller(board: Any) -> Callable[[Row], None]:
    """At most twice a second, and every warning. Nobody waits for an answer: a lost board loses the picture alone."""
    last = 0.0

    def tell(row: Row) -> None:
        nonlocal last
        if "warning" in row or time.monotonic() - last > 0.5:
            last = time.monotonic()
            board.tell.remote(row)

    return tell


@contextmanager
def _watching(board: Any, bar: "_Bar") -> Iterator[None]:
    """Show the board's news while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            try:
                news = ray.get(board.news.remote(), timeout=10)
            except RayError as error:
                print(f"the run goes on, but its progress is no longer seen: {error}", file=sys.stderr)
                return
            for row in news:
                bar.show(row)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(15)


# The bar


class _Bar:
    """Samples seen, rate, time left, the newest loss; steps back when a run goes on from a state."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, row: Row) -> None:
        """`total` and `position` first, at each start; then `position`, `loss`, `warning`, `said`."""
        for name in ("said", "warning"):
            if name in row:
                print(row[name], file=sys.stderr)
        if "total" in row:
            self.close()
            self._bar = progress(row["total"], "samples", row.get("what", "training"))
            self._bar.initial = self._bar.last_print_n = self._bar.n = row["position"]
        elif self._bar is not None and "position" in row:
            text = f"loss {row['loss']:.4f}" if "loss" in row else ""
            if "unsaved_s" in row:
                text += f", store silent for {row['unsaved_s']:.0f} s"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(row["position"] - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
