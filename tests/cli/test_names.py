import click
import click.shell_completion
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.documents import Domain, Metadata, Network, Volume, VolumeSpec
from manor_bus.wire.messages.lifecycle import OperationList, OperationsListed
from manor_cli import names
from manor_cli.app import App
from manor_cli.main import manor
from tests.cli.fake import FakeClient, discovery, domain, operation

STORED = {
    "Volume": tuple(
        Volume(metadata=Metadata(name=name), spec=VolumeSpec(size_mib=1)) for name in ("root", "swap")
    ),
    "Network": (Network(metadata=Metadata(name="lan")),),
    "Domain": (Domain(metadata=Metadata(name="web")),),
}


@pytest.fixture
def completed(monkeypatch):
    """What a shell is offered for a line; its last word is completed."""
    client = discovery(domain("web"), domain("work"), domain("db"))
    client.answers |= {
        config.List: lambda request: config.Listed(documents=STORED.get(request.kind, ()), revision=1),
        OperationList: OperationsListed(operations=(operation(id="op-17"),)),
    }

    def app():
        return App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"})

    monkeypatch.setattr(names, "App", app)

    def complete(line):
        *words, begun = line.split(" ")[1:]
        shell = click.shell_completion.ShellComplete(manor, {}, "manor", "_MANOR_COMPLETE")
        return [(item.type, item.value) for item in shell.get_completions(words, begun)]

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [("manor start w", ["web", "work"]), ("manor start web d", ["db"]), ("manor console we", ["web"]),
     ("manor start domain/w", ["domain/web", "domain/work"]), ("manor ops show op", ["op-17"]),
     ("manor ops list w", ["web", "work"]), ("manor volume resize r", ["root"]),
     ("manor volume rename r", ["root"]),
     ("manor volume delete root s", ["swap"]), ("manor get net", ["network"]),
     ("manor get network l", ["lan"]),
     ("manor delete volume root s", ["swap"]), ("manor get volume/s", ["volume/swap"]),
     ("manor describe domain w", ["web", "work"]), ("manor service restart c", ["config"])],
)  # fmt: skip
def test_what_is_there_is_offered_for_a_name(completed, line, offered):
    assert [value for _, value in completed(line)] == offered


@pytest.mark.parametrize(
    "line", ["manor apply -f ex", "manor apply ex", "manor diff -f a.yaml ex", "manor screenshot web ex",
             "manor config backup ex", "manor bus replay ex"]
)  # fmt: skip
def test_the_shell_itself_completes_names_of_files(completed, line):
    assert completed(line) == [("file", "ex")]


def test_nothing_is_offered_where_nobody_can_be_asked(completed, monkeypatch):
    def nobody():
        return App(connect=lambda _: FakeClient({}), environment={"MANOR_DIR": "/nowhere"})

    monkeypatch.setattr(names, "App", nobody)
    assert completed("manor start w") == []


@pytest.mark.parametrize("words", [("domain/a", "b"), ("volume", "domain/a"), ("thing", "a"), ("thing/a",)])
def test_words_that_name_no_document_are_refused(words):
    with pytest.raises(ManorError) as caught:
        names.documents(words)
    assert caught.value.kind is Kind.BAD_REQUEST


def test_documents_are_named_once_in_either_form():
    assert names.documents(("vm", "web", "domain/web", "db")) == [("Domain", "web"), ("Domain", "db")]
    assert names.documents(("vol/a", "net/b")) == [("Volume", "a"), ("Network", "b")]
