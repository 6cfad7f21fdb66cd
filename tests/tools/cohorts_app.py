"""The cohorts of a service alone, as a process on loopback that joins a cluster: python tests/tools/cohorts_app.py PORT
SETTINGS MODELS SCORING (JSON each). It can be killed and started again, as Serve can."""

import json
import sys

import ray
import uvicorn
from fastapi import FastAPI

from serve import problems
from serve.cohorts import CohortSettings, router
from serve.limits import Gate, Limits


def app(settings: CohortSettings, models: dict[str, str], scoring: dict[str, object] | None = None) -> FastAPI:
    made = FastAPI(title="cohorts")
    problems.install(made)
    made.add_middleware(Gate, limits=Limits(), tokens=None)
    made.include_router(router(settings, lambda: models, scoring))
    return made


if __name__ == "__main__":
    port, settings, models, scoring = sys.argv[1:]
    ray.init(namespace="serve", log_to_driver=False, logging_level="ERROR")
    served = app(CohortSettings.model_validate_json(settings), json.loads(models), json.loads(scoring))
    uvicorn.run(served, host="127.0.0.1", port=int(port), log_level="warning")
