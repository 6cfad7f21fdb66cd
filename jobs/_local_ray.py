"""A Ray of this process's own, started once more where the first start was only slow.

start_ray(num_cpus=4, include_dashboard=False)      # as ray.init(address="local") takes them

Ray gives one of its helpers 15 s to load and then ends the node it has just started, whatever the settings
(ray-project/ray#65983). A machine that is busy, or reads the environment from its disk for the first time, takes
longer. What the first start has read is in memory for the second.
"""

import logging
from typing import Any

import ray

STARTS = 3
SLOW = "timed out during startup"


def start_ray(**given: Any) -> None:
    for left in reversed(range(STARTS)):
        try:
            # address="local": without it ray.init joins whatever cluster was left running on the machine.
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **given)
            return
        except Exception as error:  # Ray raises no other kind for it
            if SLOW not in str(error) or not left:
                raise
            print(
                "ray: a helper took longer to load than Ray allows on this busy machine; it is started again",
                flush=True,
            )
            ray.shutdown()
