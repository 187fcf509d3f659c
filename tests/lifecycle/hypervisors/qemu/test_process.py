from __future__ import annotations

import os
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_host import processes
from manor_lifecycle.hypervisors.qemu import process


async def test_a_program_that_is_not_there_is_said_so() -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    with pytest.raises(ManorError) as refused:
        await process.launch(["/no/such/program"], [], silence, 0, "")
    os.close(silence)
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_a_process_is_found_by_its_log_and_belongs_to_the_state_directory_it_was_started_for(
    tmp_path: Path,
) -> None:
    log = tmp_path / "qemu.log"
    with log.open("w") as output:
        started = await process.launch(["sleep", "1000", "2000"], [], output.fileno(), 0, "state-1")
    try:
        while "2000" not in processes.command_line(started.identity.pid):
            pass  # until it has become what it was started as
        found = process.of_guest("2000", log)
        assert found is not None
        assert found.identity == started.identity
        found.release()
        assert process.of_guest("2000", tmp_path / "other.log") is None
        assert process.belongs(started.identity.pid, "state-1")
        assert process.belongs(started.identity.pid, "")
        assert not process.belongs(started.identity.pid, "state-2")
    finally:
        started.kill()
        await started.ended.wait()
