"""What a cohort's Ray job runs: jobs/score.py, on the CPUs that are reserved for cohorts.

python -m serve._cohort_run RESULTS ID NAMESPACE      # submitted by serve/_cohort_jobs.py

The line of a job stands in Ray's tables for ever, so it names the cohort and nothing of it. What the job says goes
into the cohort's folder, not into Ray's logs: messages name photos.
"""

import contextlib
import io
import os
import runpy
import sys
import tempfile
import traceback
import warnings

import ray
import yaml
from ray.data import DataContext
from ray.util import get_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fahr.config import PREFIX
from fahr.errors import Refused
from serve._cohort_folder import Cohort
from serve._cohort_jobs import KEPT, RESERVATION
from serve.allowed import Roots, check_photos

FAULT = "The job failed by a fault that is not of the request; log.txt in its folder tells the operator."


def main(results: str, id: str, namespace: str) -> int:
    """The exit status of jobs/score.py: 0 done, 1 failed, 2 refused."""
    for name in [each for each in os.environ if each.upper().startswith(PREFIX) and each not in KEPT]:
        del os.environ[name]
    _on_reserved_cpus(namespace)
    cohort = Cohort(results, id)
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status, detail = score(cohort, told)
    if cohort.erasing():
        return status
    cohort.log(told.getvalue())
    if status:
        cohort.fail(status, detail)
    return status


def _on_reserved_cpus(namespace: str) -> None:
    """Ray Data's actors of this process go into the group of bundles that is kept free of replicas."""
    ray.init(namespace=namespace, log_to_driver=False)  # joins: a submitted job has RAY_ADDRESS set
    strategy = PlacementGroupSchedulingStrategy(get_placement_group(RESERVATION))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to be replaced by an argument of map_batches when Ray takes it away
        DataContext.get_current().scheduling_strategy = strategy


def score(cohort: Cohort, told: io.StringIO) -> tuple[int, str]:
    """Exit status, and why it is not 0."""
    request = cohort.request()
    try:
        check_photos(request["options"]["manifest"], Roots(request["roots"]))
    except Refused as error:
        print(f"refused: {error}")
        return 2, str(error)
    except Exception:  # noqa: BLE001 - into log.txt: Ray's own logs name no photo
        traceback.print_exc()
        return 1, FAULT
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({**request["options"], "output": cohort.output}, file)
        file.flush()
        sys.argv = ["score.py", "--config", file.name]
        try:
            runpy.run_module("jobs.score", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = int(ended.code or 0)
    if status == 2:
        return 2, told.getvalue().rpartition("refused: ")[2].strip()
    return status, FAULT


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
