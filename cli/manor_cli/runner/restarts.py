"""When a service that ended is started again. Pure.

At once the first time, then after a pause that doubles up to `PAUSE_MAX_S`; a run of `HEALTHY_S` makes it
begin anew. It is never given up.
"""

from __future__ import annotations

from typing import Final

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 10.0
HEALTHY_S: Final = 20.0


def pause(failures: int, lasted_s: float, *, wished: bool) -> tuple[int, float]:
    """Return the failures in a row and the seconds to wait, after a run that `lasted_s`.

    `failures` are those before it. `wished`: it ended as it should, with exit code 0 or because it was told.
    """
    now = 0 if wished else 1 if lasted_s >= HEALTHY_S else failures + 1
    return now, 0.0 if now <= 1 else min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(now - 2, 16))
