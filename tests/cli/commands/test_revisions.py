from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.lifecycle import DomainDelete
from tests.cli.fake import FakeClient, operation, run

APPLIED = config.Applied(
    revision=8, changes=(config.Change(kind="Volume", name="root", uuid="u", action="deleted", revision=8),)
)


def test_documents_are_deleted_in_one_transaction():
    client = FakeClient({config.Delete: APPLIED})
    ran = run("delete", "volume", "root", "swap", "--reason", "old", client=client)
    wanted = (config.Reference(kind="Volume", name="root"), config.Reference(kind="Volume", name="swap"))
    assert client.asked == [config.Delete(references=wanted, reason="old")]
    assert ran.out == "volume/root deleted (revision 8)\n"


def test_a_domain_is_deleted_by_its_lifecycle():
    client = FakeClient({DomainDelete: operation(kind="delete")})
    run("delete", "domain", "web", "--force", client=client)
    assert client.asked == [DomainDelete(name="web", force=True)]


def test_a_dry_run_of_a_delete_only_asks_config():
    client = FakeClient({config.Delete: APPLIED})
    ran = run("delete", "domain", "web", "--dry-run", client=client)
    assert client.asked == [
        config.Delete(references=(config.Reference(kind="Domain", name="web"),), dry_run=True)
    ]
    assert "would be deleted" in ran.out


ENTRIES = config.HistoryListed(
    entries=(
        config.HistoryEntry(
            revision=9,
            at=1_800_000_000.0,
            by="operator/a",
            reason="more",
            action="changed",
            diff=(config.DiffLine(path="spec.cpu.count", old="1", new="2"),),
        ),
    ),
    compacted=4,
)


def test_the_history_says_when_by_whom_why_and_what():
    ran = run("history", "domain", "web", client=FakeClient({config.History: ENTRIES}))
    for word in ("9", "operator/a", "more", "spec.cpu.count", "2027-01-15"):
        assert word in ran.out
    assert "revisions up to 4 are no longer kept" in ran.err


def test_the_wide_history_shows_the_values():
    ran = run("history", "domain", "web", "-o", "wide", client=FakeClient({config.History: ENTRIES}))
    assert "  - spec.cpu.count: 1\n  + spec.cpu.count: 2\n" in ran.out


def test_a_rollback_names_the_revision():
    client = FakeClient({config.Rollback: APPLIED})
    run("rollback", "vol", "root", "3", client=client)
    assert client.asked == [config.Rollback(kind="Volume", name="root", revision=3)]


def test_each_deletion_is_told_and_the_worst_is_the_exit_code():
    def end(request):
        if request.name == "b":
            raise ManorError(Kind.DENIED_STATE, "it runs")
        return operation(kind="delete", target=request.name)

    client = FakeClient({DomainDelete: end, config.Delete: APPLIED})
    ran = run("delete", "domain/a", "domain/b", "volume/root", "domain/c", client=client)
    assert ran.code == 5
    assert ran.out == "delete a: done\ndelete c: done\nvolume/root deleted (revision 8)\n"
    assert "b: error: denied_state: it runs" in ran.err
    told = run("delete", "domain/a", "domain/b", "volume/root", "-o", "json", client=client).json
    assert [row.get("target", row.get("path")) for row in told] == ["b", "a", "volume/root"]


def test_one_document_may_be_named_with_its_kind():
    client = FakeClient({config.History: ENTRIES, config.Rollback: APPLIED})
    run("history", "domain/web", client=client)
    run("rollback", "vol/root", "3", client=client)
    assert client.asked[0] == config.History(kind="Domain", name="web")
    assert client.asked[1] == config.Rollback(kind="Volume", name="root", revision=3)
    assert run("delete", "domain/a", "b", client=client).code == 2
    assert run("history", "domain", client=client).code == 2
    assert run("delete", "domain", client=client).code == 2
