from manor_bus import PROTOCOL, VERSION
from tests.cli.fake import run


def test_the_version_and_the_protocol_are_told_without_a_bus():
    assert run("version").out == f"manor {VERSION} (bus protocol {PROTOCOL})\n"
