"""The walks over sorted lists: `compiled` where numba is there, else `plain`, which is NumPy. FAHR_NO_NUMBA=1 asks for
`plain`. Both have the same functions.

engine().sort_by_time(time, event)    engine().rank_risks(risk)    engine().walk(...)    engine().resample(...)
"""

import os
from functools import cache
from types import ModuleType


def engine() -> ModuleType:
    from fahr.survival import plain

    wanted = os.environ.get("FAHR_NO_NUMBA") != "1"
    return (_compiled() if wanted else None) or plain


@cache
def _compiled() -> ModuleType | None:
    try:
        from fahr.survival import compiled
    except ImportError:
        return None
    return compiled
