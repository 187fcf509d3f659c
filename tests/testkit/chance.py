"""How Hypothesis searches here: the same examples in every run, and how to repeat a failure.

Set MANOR_CHANCE=1 to search elsewhere; a failure prints a `@reproduce_failure` line.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SEARCH = settings(
    deadline=None,
    derandomize="MANOR_CHANCE" not in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
