"""`make bench` runs: what it measures is its own affair, that it measures and keeps it is ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]


def test_a_quick_look_measures_prints_and_keeps_its_figures():
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--only", "resident", "--only", "startup"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| figure" in done.stdout
    kept = Path(done.stdout.rstrip().rpartition("kept in ")[2])
    sections = json.loads(kept.read_text())["sections"]
    kept.unlink()
    assert [section["title"] for section in sections] == ["An idle node", "Start of the command line"]
    assert all(figure["value"]["median"] > 0 for section in sections for figure in section["figures"])
