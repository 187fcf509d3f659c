import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_cli import kinds


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("domain", "Domain"),
        ("domains", "Domain"),
        ("Domain", "Domain"),
        ("dom", "Domain"),
        ("vms", "Domain"),
        ("net", "Network"),
        ("networks", "Network"),
        ("vol", "Volume"),
        ("node", "Node"),
        ("providers", "Provider"),
        ("credentials", "Credential"),
        ("settings", "ClusterSettings"),
        ("ClusterSettings", "ClusterSettings"),
        ("cluster", "ClusterSettings"),
    ],
)
def test_people_may_say_it_short_or_in_the_plural(word, kind):
    assert kinds.document_kind(word) == kind


def test_a_word_that_is_no_kind_is_refused_with_those_that_are():
    with pytest.raises(ManorError) as caught:
        kinds.document_kind("thing")
    assert caught.value.kind is Kind.BAD_REQUEST
    assert "domain" in caught.value.problems[0].allowed


def test_operations_and_services_have_their_short_words():
    assert kinds.singular("ops") == "operation"
    assert kinds.singular("Services") == "service"
