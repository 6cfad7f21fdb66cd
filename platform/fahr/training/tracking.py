"""The lines of metrics.jsonl to an MLflow server too, where somebody has one.

    send = mlflow_run("https://mlflow.hospital.example", "pretrain", digest, options.resolved())
    Journal(folder, position, background, digest, track=send)

MLflow is an extra (`pip install "fahr[mlflow]"`). A run that goes on goes on in the same MLflow run. A server that does
not answer is told once a line and costs the line, never the training: metrics.jsonl holds everything.
"""

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fahr.errors import Refused
from fahr.training.journal import numbers

_BATCH = 1000  # metrics that one call may hold
_TAG = "fahr.run"


def mlflow_run(
    uri: str, experiment: str, digest: str, parameters: Mapping[str, Any], say: Callable[[str], None] | None = None
) -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """What sends rows of the journal to the run of this digest, made if it is not there. Refused: no such server."""
    try:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise Refused('--mlflow: is not installed. Install it: pip install "fahr[mlflow]".') from error
    tell = say or (lambda text: print(text, file=sys.stderr))
    try:
        client = MlflowClient(uri)
        run = _run(client, experiment, digest, parameters)
    except (MlflowException, OSError) as error:
        raise Refused(
            f"--mlflow {uri}: does not answer ({' '.join(str(error).split())[:300]}). Start it first."
        ) from error

    def send(rows: Sequence[Mapping[str, Any]]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, row["position"]) for row in rows for name, value in numbers(row["kind"], row)
        ]
        try:
            for start in range(0, len(metrics), _BATCH):
                client.log_batch(run, metrics=metrics[start : start + _BATCH])
        except (MlflowException, OSError) as error:
            tell(
                f"mlflow: {len(rows)} rows were not sent ({' '.join(str(error).split())[:200]}); metrics.jsonl has them"
            )

    return send


def _run(client: Any, experiment: str, digest: str, parameters: Mapping[str, Any]) -> str:
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    for run in client.search_runs([number], f"tags.`{_TAG}` = '{digest}'", max_results=1):
        return str(run.info.run_id)
    made = str(client.create_run(number, tags={_TAG: digest}, run_name=digest).info.run_id)
    for name, value in itertools.islice(_flat(parameters), 100):
        client.log_param(made, name, str(value)[:500])
    return made


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat
