import os
import subprocess
import sys

from manor_host import locks, processes

WAITS = """
import pathlib, sys
from manor_host import locks
locks.take(pathlib.Path(sys.argv[1]), wait=True)
print(1)
"""


def test_a_lock_has_one_holder_and_is_given_back_with_its_file(tmp_path):
    path = tmp_path / "lock"
    assert not locks.held(path)
    first = locks.take(path)
    assert locks.held(path)
    assert locks.take(path) == -1
    os.close(first)
    assert not locks.held(path)


def test_who_waits_takes_it_next(tmp_path):
    path = tmp_path / "lock"
    first = locks.take(path)
    with subprocess.Popen([sys.executable, "-c", WAITS, path], stdout=subprocess.PIPE) as waiting:
        while waiting.pid not in {one.pid for one in processes.writers([path]).get(path, [])}:
            assert waiting.poll() is None
        os.close(first)
        assert waiting.stdout.read() == b"1\n"


def test_who_only_reads_a_file_is_no_writer_of_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open():
        assert processes.writers([path]) == {}
