import os

import pytest

from manor_bus.wire.errors import Kind, ManorError, Problem
from manor_bus.wire.messages.config import Applied, Apply, Change
from manor_cli.commands import apply
from manor_cli.documents import Parsed
from tests.cli.fake import FakeClient, run

WEB = "kind: Domain\nmetadata: {name: web}\nspec:\n  cpu: {count: 0}\n"
LAN = "kind: Network\nmetadata: {name: lan}\n"


def bus():
    return FakeClient({Apply: Applied(revision=9, changes=())})


def test_all_files_are_one_transaction(tmp_path):
    (tmp_path / "a.yaml").write_text(f"{WEB}---\n{LAN}")
    (tmp_path / "b.json").write_text('{"kind": "Node", "metadata": {"name": "n1"}}')
    client = bus()
    ran = run(
        "apply",
        "-f",
        str(tmp_path / "a.yaml"),
        "-f",
        str(tmp_path / "b.json"),
        "--reason",
        "r",
        client=client,
    )
    assert ran.code == 0
    (request,) = client.asked
    assert [one["kind"] for one in request.documents] == ["Domain", "Network", "Node"]
    assert request.reason == "r"
    assert client.keys[0].startswith("op-")


def test_a_folder_stands_for_the_documents_in_it(tmp_path):
    (tmp_path / "deep.yaml").mkdir()
    (tmp_path / "deep.yaml" / "other.yml").write_text(LAN)
    (tmp_path / "web.yml").write_text(WEB)
    (tmp_path / "README.md").write_text("not a document")
    client = bus()
    assert run("apply", "-f", str(tmp_path), client=client).code == 0
    assert [one["kind"] for one in client.asked[0].documents] == ["Domain"]


def test_a_dash_stands_for_standard_input():
    client = bus()
    assert run("apply", "-f", "-", client=client, typed=WEB).code == 0
    assert client.asked[0].documents[0]["spec"] == {"cpu": {"count": 0}}


def test_problems_come_back_with_file_and_line(tmp_path):
    path = tmp_path / "web.yaml"
    path.write_text(f"{LAN}---\n{WEB}")
    problem = Problem(
        path="documents[1].spec.cpu.count", reason="out of range", value="0", allowed="1 to 512"
    )
    refused = ManorError(Kind.BAD_REQUEST, "1 problem", problems=(problem,))
    ran = run("apply", "-f", str(path), client=FakeClient({Apply: refused}))
    assert ran.code == 2
    assert f"{path}:7 Domain/web spec.cpu.count: out of range (got 0; allowed: 1 to 512)" in ran.err


def test_problems_that_name_no_document_stay_as_they_are():
    parsed = [Parsed({"kind": "Domain"}, "x", 1)]
    for path in ("reason", "documents[7].spec", "documents"):
        assert apply.placed(Problem(path=path, reason="r"), parsed).path == path


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "there are no documents"), (f"{WEB}---\n{WEB}", "described twice"), ("a: [", "not YAML")],
)
def test_nothing_is_posted_when_the_files_are_wrong(text, told):
    client = bus()
    ran = run("apply", "-f", "-", client=client, typed=text)
    assert ran.code == 2
    assert told in ran.err
    assert client.asked == []


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"ok\n\xff\xfe")
    ran = run("apply", "-f", str(tmp_path / "none"), client=bus())
    assert ran.code == 2
    assert "none is not there" in ran.err
    assert f"{tmp_path}/x.yaml:2: not UTF-8" in run("apply", "-f", str(tmp_path / "x.yaml"), client=bus()).err


def documents(*kinds):
    return [Parsed({"kind": kind, "metadata": {"name": str(at)}}, "x", 1) for at, kind in enumerate(kinds)]


def test_chunks_have_what_is_used_before_its_users():
    wanted = documents("Domain", "Volume", "Network", "Domain")
    chunks = apply.batches(wanted, 2)
    assert [[one.kind for one in chunk] for chunk in chunks] == [["Network", "Volume"], ["Domain", "Domain"]]


def test_what_does_not_fit_one_transaction_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(apply, "TRANSACTION_BYTES_MAX", 100)
    with pytest.raises(ManorError) as caught:
        apply.batches(documents(*["Domain"] * 10), None)
    assert "--chunk" in caught.value.hint
    chunk = int(caught.value.hint.rpartition(" ")[2])
    assert all(
        len(apply.batches(batch, None)) == 1 for batch in apply.batches(documents(*["Domain"] * 10), chunk)
    )


def test_each_chunk_is_a_transaction(tmp_path):
    client = bus()
    run("apply", "-f", "-", "--chunk", "1", client=client, typed=f"{WEB}---\n{LAN}")
    assert [one.documents[0]["kind"] for one in client.asked] == ["Network", "Domain"]
    assert len(set(client.keys)) == 2


def test_a_difference_is_shown_without_changing_anything():
    client = bus()
    run("diff", "-f", "-", client=client, typed=WEB)
    assert client.asked[0].dry_run


def test_several_files_are_taken_with_and_without_the_option(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text(f"kind: Network\nmetadata: {{name: {name}}}\n")
    words = [str(tmp_path / f"{name}.yaml") for name in "abc"]
    for arguments in (["-f", *words], words, ["-f", words[0], "-f", words[1], words[2]]):
        client = bus()
        assert run("apply", *arguments, client=client).code == 0
        assert [one["metadata"]["name"] for one in client.asked[0].documents] == ["a", "b", "c"]
    assert run("apply", client=bus()).code == 2


def test_what_is_not_read_in_a_folder_is_said(tmp_path):
    (tmp_path / "web.yaml").write_text(WEB)
    (tmp_path / ".hidden.yaml").write_text(LAN)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "deep").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    client = bus()
    ran = run("apply", "-f", str(tmp_path), client=client)
    assert [one["kind"] for one in client.asked[0].documents] == ["Domain"]
    for told in (".hidden.yaml (hidden)", "gone.yaml (leads nowhere)", "deep (a folder)",
                 "pipe.yaml (no regular file)", "README.md (no .yaml, .yml or .json)"):  # fmt: skip
        assert told in ran.err


def changed(*actions):
    changes = tuple(
        Change(kind="Network", name=f"n{at}", uuid="u", action=action, revision=1)
        for at, action in enumerate(actions)
    )
    return Applied(revision=9, changes=changes)


@pytest.mark.parametrize("verb", ["apply", "diff"])
@pytest.mark.parametrize(
    ("actions", "code"), [((), 0), (("unchanged",), 0), (("unchanged", "changed"), 1), (("created",), 1)]
)
def test_whether_there_is_a_difference_can_be_the_exit_code(verb, actions, code):
    client = FakeClient({Apply: changed(*actions)})
    assert run(verb, "-f", "-", "--exit-code", client=client, typed=LAN).code == code
    assert run(verb, "-f", "-", client=client, typed=LAN).code == 0


@pytest.mark.parametrize("error", [ManorError(Kind.INTERNAL, "no"), ValueError("no")])
def test_with_a_difference_as_exit_code_no_error_looks_like_one(error):
    def fail(_):
        raise error

    assert run("diff", "-f", "-", "--exit-code", client=FakeClient({Apply: fail}), typed=LAN).code == 13


def test_a_chunk_that_is_refused_says_what_the_ones_before_it_wrote():
    answers = iter([changed("created"), ManorError(Kind.BAD_REQUEST, "no", hint="Nothing was changed.")])
    client = FakeClient({Apply: lambda _: FakeClient._answer(next(answers), None)})
    ran = run("apply", "-f", "-", "--chunk", "1", client=client, typed=f"{LAN}---\n{WEB}")
    assert ran.code == 2
    assert "created (revision 1)" in ran.out
    assert "transaction 2 of 2: no" in ran.err
    assert "the 1 documents before it were written" in ran.err


def test_a_dry_run_in_chunks_shows_each_what_it_needs_of_the_earlier_ones():
    root = "kind: Volume\nmetadata: {name: root}\n"
    disk = "kind: Domain\nmetadata: {name: web}\nspec: {disks: [{id: a, volume: root}]}\n"
    client = FakeClient({Apply: lambda request: changed(*["created"] * len(request.documents))})
    typed = f"{disk}---\n{root}---\n{LAN}"
    ran = run("apply", "-f", "-", "--dry-run", "--chunk", "1", client=client, typed=typed)
    sent = [[one["metadata"]["name"] for one in request.documents] for request in client.asked]
    assert sent == [["lan"], ["root"], ["root", "web"]]
    assert ran.out.count("would be created") == 3


def test_more_documents_than_one_transaction_takes_are_refused_with_advice_and_divided_for_a_diff():
    many = "---\n".join(f"kind: Network\nmetadata: {{name: n{at}}}\n" for at in range(1_001))
    ran = run("apply", "-f", "-", client=bus(), typed=many)
    assert ran.code == 2
    assert "hint: use several transactions: --chunk 1000" in ran.err
    client = bus()
    assert run("diff", "-f", "-", client=client, typed=many).code == 0
    assert [len(request.documents) for request in client.asked] == [1000, 1]


def test_a_refused_value_is_told_as_it_was_written():
    problem = Problem(path="documents[0].spec.cpu.count", reason="out of range", value="4096")
    refused = ManorError(Kind.BAD_REQUEST, "1 problem", problems=(problem,))
    text = WEB.replace("count: 0", "count: 0x1000")
    ran = run("apply", "-f", "-", client=FakeClient({Apply: refused}), typed=text)
    assert "(got 0x1000)" in ran.err
