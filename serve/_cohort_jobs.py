"""Cohorts as Ray jobs: submitted, asked after, stopped, on CPUs that replicas cannot take.

jobs = Jobs(settings.bundles())
jobs.reserve()                      # at the start of the service: before replicas multiply
jobs.submit(results, cohort.id)     # `python -m serve._cohort_run ...`, a job of its own: it outlives this service
"""

import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup

from fahr.config import PREFIX

RESERVATION = "fahr-cohorts"  # the placement group: it stays when this service restarts, with the jobs in it
SEEN_BY_THEN_S = 3.0  # after a job's end
KEPT = ("FAHR_WEIGHTS", "FAHR_NO_NUMBA")  # other variables are the service's: options of a job come as flags
_NAME = "cohort-"
_OWN_PYTHON = ("pip", "uv", "conda", "container", "image_uri", "py_executable")  # of a runtime environment


class Unreachable(Exception):
    """The jobs API does not answer, or cannot take a job now."""


class Jobs:
    """The jobs of one cluster: the one that this process is connected to."""

    def __init__(self, bundles: Sequence[dict[str, float]]) -> None:
        """`bundles`: what is reserved for all cohorts that run at once."""
        self.bundles = [{name: float(amount) for name, amount in bundle.items()} for bundle in bundles]

    # --- the CPUs ---

    def reserve(self, wait_s: float = 0.0) -> bool:
        """Ask for the bundles, once for the cluster; whether they are there.

        A reservation of another size, by a service with other settings, is given back first unless a cohort is in it.
        """
        _connected()
        group = _group()
        if group is not None and not _alike(group.bundle_specs, self.bundles) and not self.active():
            remove_placement_group(group)
            group = None
        if group is None:
            try:
                group = placement_group(self.bundles, strategy="PACK", name=RESERVATION, lifetime="detached")
            except (RayError, ValueError) as error:  # another ingress was first
                if (group := _group()) is None:
                    raise Unreachable("Ray makes no placement group now") from error
        return group.wait(wait_s)

    # --- the jobs ---

    def submit(self, results: str, id: str) -> None:
        """A job for a cohort; one that has ended is begun anew, one that has not stays."""
        context = ray.get_runtime_context()
        environment = _environment(dict(context.runtime_env or {}))
        python = "python" if environment.keys() & set(_OWN_PYTHON) else sys.executable
        line = shlex.join([python, "-m", "serve._cohort_run", results, id, context.namespace])
        status = self.status(id)
        if status is not None and status.is_terminal():
            self.forget(id)
        elif status is not None:
            return
        try:
            _client().submit_job(entrypoint=line, submission_id=_NAME + id, runtime_env=environment)
        except (RuntimeError, OSError) as error:  # "no available agent": a head that has just started
            if self.status(id) is None:  # else another request with the same key was first
                raise Unreachable("the cluster takes no job now") from error

    def status(self, id: str) -> JobStatus | None:
        """None: the cluster knows no such job."""
        try:
            return _client().get_job_status(_NAME + id)
        except (RuntimeError, OSError) as error:
            if "status code 404" in str(error):
                return None
            raise Unreachable("the cluster does not say how its jobs are") from error

    def active(self) -> int:
        """Cohorts that run or wait to."""
        try:
            jobs = _client().list_jobs()
        except (RuntimeError, OSError) as error:
            raise Unreachable("the cluster does not list its jobs") from error
        return sum((job.submission_id or "").startswith(_NAME) and not job.status.is_terminal() for job in jobs)

    def stop(self, id: str, at_most_s: float = 30.0) -> None:
        """Back when the job has ended: Ray asks it to, and after 3 s makes it."""
        deadline = time.monotonic() + at_most_s
        while (status := self.status(id)) is not None and not status.is_terminal():
            if time.monotonic() > deadline:
                raise Unreachable("the job does not stop")
            try:
                _client().stop_job(_NAME + id)
            except (RuntimeError, OSError) as error:
                raise Unreachable("the cluster stops no job now") from error
            time.sleep(0.2)

    def forget(self, id: str) -> None:
        """Take an ended job out of Ray's table, a few seconds after its end.

        Ray's watcher looks at a job every second until it has seen its end; one that is not in the table any more it
        writes there again, as failed.
        """
        try:
            if self.status(id) is not None:
                ended = _client().get_job_info(_NAME + id).end_time  # ms
                time.sleep(min(SEEN_BY_THEN_S, max(0.0, (ended or 0) / 1000 + SEEN_BY_THEN_S - time.time())))
                _client().delete_job(_NAME + id)
        except (RuntimeError, OSError) as error:
            raise Unreachable("the cluster forgets no job now") from error


def _connected() -> None:
    if not ray.is_initialized():
        raise Unreachable("this process is in no cluster")


def _client() -> JobSubmissionClient:
    _connected()
    try:  # told by the address of its own cluster: without one it takes any that was left running on the machine
        return JobSubmissionClient(ray.get_runtime_context().gcs_address)
    except (RuntimeError, OSError) as error:
        raise Unreachable("the jobs API does not answer: is the cluster's dashboard on?") from error


def _group() -> PlacementGroup | None:
    try:
        found: PlacementGroup = get_placement_group(RESERVATION)
    except ValueError:
        return None
    return found


def _alike(some: Sequence[dict[str, float]], others: Sequence[dict[str, float]]) -> bool:
    return sorted(map(sorted, (each.items() for each in some))) == sorted(
        map(sorted, (each.items() for each in others))
    )


def _environment(own: dict[str, Any]) -> dict[str, Any]:
    """That of this process, so that the job runs the same code; but the service's variables, tokens among them."""
    given = own.pop("env_vars", {})
    variables = {name: value for name, value in given.items() if name in KEPT or not name.upper().startswith(PREFIX)}
    return {name: value for name, value in own.items() if not name.startswith("_")} | {
        "env_vars": {"OMP_NUM_THREADS": "1", **variables}
    }
