import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import lifecycle
from manor_bus.wire.messages.lifecycle import OperationState
from tests.cli.fake import FakeClient, operation, run

VERBS = [
    ("start web --paused --reason r", lifecycle.DomainStart(name="web", paused=True, reason="r")),
    ("shutdown web", lifecycle.DomainShutdown(name="web")),
    (
        "shutdown web --deadline 5 --force",
        lifecycle.DomainShutdown(name="web", timeout_s=5.0, force_after=True),
    ),
    ("reboot web --deadline 5", lifecycle.DomainReboot(name="web", timeout_s=5.0)),
    ("reset web", lifecycle.DomainReset(name="web")),
    ("pause web", lifecycle.DomainPause(name="web")),
    ("resume web", lifecycle.DomainResume(name="web")),
    ("destroy web", lifecycle.DomainDestroy(name="web")),
    ("save web", lifecycle.DomainSave(name="web")),
    ("restore web --paused", lifecycle.DomainRestore(name="web", paused=True)),
    ("discard web", lifecycle.DomainDiscard(name="web")),
    ("rename web front", lifecycle.DomainRename(name="web", new_name="front")),
    ("clear web", lifecycle.DomainClear(name="web")),
    ("nmi web", lifecycle.DomainNmi(name="web")),
]


@pytest.mark.parametrize(("words", "request_"), VERBS, ids=[words for words, _ in VERBS])
def test_each_verb_posts_its_message(words, request_):
    client = FakeClient({type(request_): operation(kind=words.split()[0])})
    ran = run(*words.split(), client=client)
    assert client.asked == [request_]
    assert ran.code == 0
    assert ran.out == f"{words.split()[0]} web: done\n"


def test_every_verb_of_the_lifecycle_service_has_a_command():
    posted = {type(request) for _, request in VERBS}
    verbs = {
        call.request
        for call in lifecycle.CALLS
        if call.reply is lifecycle.Operation and "domain" in call.subject
    }
    assert verbs - posted == {lifecycle.DomainDelete, lifecycle.DomainUnplug}  # `delete` and `device detach`


def test_a_dry_run_prints_the_plan_and_posts_only_the_question():
    plan = operation(OperationState.PENDING, steps=("claim memory", "create"))
    client = FakeClient({lifecycle.DomainStart: plan})
    ran = run("start", "web", "--dry-run", client=client)
    assert ran.out == "  1 claim memory\n  2 create\n"
    assert client.asked == [lifecycle.DomainStart(name="web", dry_run=True)]


def test_a_picture_is_written_to_a_file(tmp_path):
    client = FakeClient({lifecycle.DomainScreenshot: lifecycle.Screenshot(content=b"\x89PNG")})
    ran = run("screenshot", "web", str(tmp_path / "web.png"), client=client)
    assert ran.code == 0
    assert (tmp_path / "web.png").read_bytes() == b"\x89PNG"


def refusing(*names):
    def answer(request):
        if request.name in names:
            raise ManorError(Kind.NOT_FOUND if request.name == "no" else Kind.DENIED_STATE, "refused")
        return operation(kind="start", target=request.name)

    return FakeClient({lifecycle.DomainStart: answer})


def test_each_of_several_domains_is_done_and_told_whatever_became_of_the_others():
    client = refusing("no", "off")
    ran = run("start", "a", "no", "off", "b", client=client)
    assert [request.name for request in client.asked] == ["a", "no", "off", "b"]
    assert ran.out == "start a: done\nstart b: done\n"
    assert "no: error: not_found: refused" in ran.err
    assert "off: error: denied_state: refused" in ran.err
    assert ran.code == 5, "the worse of the two"


def test_programs_get_one_list_of_what_became_of_several_domains():
    ran = run("start", "a", "no", "-o", "json", client=refusing("no"))
    assert [row["target"] for row in ran.json] == ["no", "a"]
    assert ran.json[0]["error"]["kind"] == "not_found"
    assert run("start", "a", "-o", "json", client=refusing()).json["target"] == "a"


def test_a_name_may_carry_its_kind_as_lists_print_it():
    client = refusing()
    run("start", "domain/web", "vm/db", "web", client=client)
    assert [request.name for request in client.asked] == ["web", "db"]
    ran = run("start", "volume/web", client=client)
    assert ran.code == 2
    assert "does not name a domain" in ran.err
