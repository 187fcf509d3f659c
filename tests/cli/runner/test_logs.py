import os
from itertools import islice

from manor_cli.runner import logs


def test_the_last_lines_are_found_in_a_file_larger_than_a_block(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(5_000)))
    assert [line.split()[1] for line in logs.tail(path, 3)] == ["4997", "4998", "4999"]
    assert len(logs.tail(path, 9_999)) == 5_000
    assert logs.tail(path, 0) == []


def test_there_is_nothing_to_show_of_a_log_that_is_not_there(tmp_path):
    assert logs.tail(tmp_path / "none.log", 5) == []
    assert not logs.rotate(tmp_path / "none.log")


def test_a_log_is_private_and_appended_to(tmp_path):
    path = tmp_path / "x.log"
    for word in (b"a\n", b"b\n"):
        descriptor = logs.opened(path)
        os.write(descriptor, word)
        os.close(descriptor)
    assert path.read_text() == "a\nb\n"
    assert path.stat().st_mode & 0o077 == 0


def test_a_large_log_is_moved_aside_while_its_writer_goes_on(tmp_path):
    path = tmp_path / "x.log"
    descriptor = logs.opened(path)
    for generation in range(5):
        os.write(descriptor, b"%d" % generation * 100)
        assert logs.rotate(path, size_max=50, kept=2)
    os.write(descriptor, b"new\n")
    os.close(descriptor)
    assert path.read_text() == "new\n"
    assert path.with_name("x.log.1").read_text() == "4" * 100
    assert path.with_name("x.log.2").read_text() == "3" * 100
    assert not path.with_name("x.log.3").exists()


def test_a_small_log_stays(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("small")
    assert not logs.rotate(path)
    assert path.read_text() == "small"


def test_following_yields_whole_lines_and_survives_rotation(tmp_path, monkeypatch):
    path = tmp_path / "x.log"
    path.write_text("old\n")
    writes = iter([("on", "a"), ("e\ntwo\n", "a"), ("", "w"), ("three\n", "a")])

    def write_instead_of_sleeping(_):
        text, mode = next(writes)
        with path.open(mode) as file:
            file.write(text)

    monkeypatch.setattr(logs.time, "sleep", write_instead_of_sleeping)
    assert list(islice(logs.follow(path), 3)) == ["one", "two", "three"]
