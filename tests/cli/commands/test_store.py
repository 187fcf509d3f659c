import hashlib
import os

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Backup, BackupChunk, BackupDone, Restore, Restored
from manor_cli.commands import store
from tests.cli.fake import FakeClient, run

CHUNKS = [BackupChunk(content=b"one"), BackupChunk(content=b"two")]
DIGEST = hashlib.sha256(b"onetwo").hexdigest()


def bus(size=6, digest=DIGEST):
    return FakeClient({Backup: BackupDone(size=size, sha256=digest, revision=9)}, {Backup: CHUNKS})


def test_a_backup_is_written_whole(tmp_path):
    ran = run("config", "backup", str(tmp_path / "b.db"), client=bus())
    assert ran.code == 0
    assert (tmp_path / "b.db").read_bytes() == b"onetwo"
    assert "revision 9, 6 bytes" in ran.out


def test_a_copy_that_arrived_incomplete_replaces_nothing(tmp_path):
    (tmp_path / "b.db").write_bytes(b"the good old one")
    for client in (bus(size=7), bus(digest="0" * 64)):
        assert run("config", "backup", str(tmp_path / "b.db"), client=client).code == 1
    assert (tmp_path / "b.db").read_bytes() == b"the good old one"
    assert [path.name for path in tmp_path.iterdir()] == ["b.db"]


def test_a_backup_takes_the_place_of_a_file_and_of_nothing_else(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("b.db")
    assert run("config", "backup", str(tmp_path / "fifo"), client=bus()).code == 2
    assert (tmp_path / "fifo").is_fifo()
    assert run("config", "backup", str(tmp_path / "link"), client=bus()).code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "b.db").read_bytes() == b"onetwo"


def test_a_refused_backup_leaves_nothing_behind(tmp_path):
    client = FakeClient({Backup: ManorError(Kind.UNAVAILABLE, "gone")})
    assert run("config", "backup", str(tmp_path / "b.db"), client=client).code == 8
    assert list(tmp_path.iterdir()) == []


def test_a_restore_sends_the_file_in_pieces_and_its_digest_with_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_BYTES", 4)
    (tmp_path / "b.db").write_bytes(b"onetwo")
    client = FakeClient({Restore: Restored(size=6, revision=12)})
    ran = run("config", "restore", str(tmp_path / "b.db"), "--yes", client=client)
    first, last = client.asked
    assert (first.offset, first.content, first.last, first.sha256) == (0, b"onet", False, "")
    assert (last.offset, last.content, last.last, last.sha256) == (4, b"wo", True, DIGEST)
    assert first.upload == last.upload
    assert "revision 12" in ran.out


def test_a_restore_asks_first(tmp_path):
    (tmp_path / "b.db").write_bytes(b"x")
    client = FakeClient({Restore: Restored(size=1, revision=12)})
    assert run("config", "restore", str(tmp_path / "b.db"), client=client, typed="n\n").code == 130
    assert client.asked == []
    assert run("config", "restore", str(tmp_path / "b.db"), client=client, typed="y\n").code == 0


def test_an_empty_file_is_one_last_piece(tmp_path):
    (tmp_path / "b.db").write_bytes(b"")
    client = FakeClient({Restore: Restored(size=0)})
    run("config", "restore", str(tmp_path / "b.db"), "--yes", client=client)
    assert [one.last for one in client.asked] == [True]
