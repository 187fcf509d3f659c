from importlib.metadata import entry_points

import pytest

from manor_bus import plugins

TEXT = """
[console_scripts]
disk = other.module:wrong

[manor.backends]
disk = disks.module:open_backend
# a comment
net = nets:open_backend [extra]
broken line
"""


def package(folder, name, text=TEXT):
    made = folder / f"{name}.dist-info"
    made.mkdir(parents=True)
    (made / "entry_points.txt").write_text(text)
    return str(folder)


@pytest.mark.parametrize("group", ["manor.backends", "manor.hypervisors"])
def test_what_is_found_is_what_the_standard_library_finds(group):
    expected = {one.name: (one.value, one.dist.version) for one in entry_points(group=group)}
    found = plugins.installed(group)
    assert {one.name: (f"{one.module}:{one.attribute}", one.version) for one in found.values()} == expected
    assert all(found[one.name].load() is one.load() for one in entry_points(group=group))


def test_only_the_lines_of_the_group_count(tmp_path):
    found = plugins.installed("manor.backends", [package(tmp_path, "disks-1.2")])
    assert found["disk"] == plugins.Plugin("disk", "1.2", "disks.module", "open_backend")
    assert set(found) == {"disk", "net"}


def test_the_first_on_the_path_counts_and_what_is_damaged_offers_nothing(tmp_path):
    first, second = package(tmp_path / "a", "disks-1.2"), package(tmp_path / "b", "disks-1.3")
    (tmp_path / "c" / "bad-1.dist-info").mkdir(parents=True)
    (tmp_path / "c" / "bad-1.dist-info" / "entry_points.txt").write_bytes(b"[manor.backends]\nx = \xff:y")
    path = [str(tmp_path / "c"), str(tmp_path / "missing"), first, second]
    assert plugins.installed("manor.backends", path)["disk"].version == "1.2"
    assert set(plugins.installed("manor.backends", path)) == {"disk", "net"}
