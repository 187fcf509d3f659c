import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import DomainStatus, NodeStatus, State
from manor_bus.wire.messages.providers import ProviderStatus
from manor_discovery.selectors import TERMS_MAX, attributes, matches, parse

NODE = NodeStatus(name="n1", labels={"zone": "a", "disk": ""})
WEB = DomainStatus(
    name="web", uuid="u", state=State.RUNNING, generation=1, node="n1", hypervisor="fake",
    labels={"tier": "front"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("", True),
        ("zone=a", True),
        ("zone==a", True),
        ("zone=b", False),
        ("zone!=b", True),
        ("zone!=a", False),
        ("absent!=a", True),
        ("disk", True),
        ("disk=", True),
        ("!disk", False),
        ("!absent", True),
        ("name=n1,zone=a", True),
        ("name=n1,zone=b", False),
        (" zone=a , name=n1 ", True),
    ],
)
def test_a_node_is_found_by_its_labels_and_name(selector: str, found: bool) -> None:
    assert matches(parse(selector), NODE) is found


def test_a_domain_is_found_by_its_state_and_node() -> None:
    assert matches(parse("state=RUNNING,node=n1,tier=front"), WEB)
    assert not matches(parse("state=PAUSED"), WEB)


def test_a_label_comes_before_an_attribute_of_the_same_name() -> None:
    provider = ProviderStatus(name="p", backend="nbd", node="n1", epoch=1, labels={"backend": "mine"})
    assert attributes(provider)["backend"] == "mine"


@pytest.mark.parametrize("selector", ["=a", "a=b=c", "!a=b", "a=<b>", ",", "a,,b", "a b", "a" * 2000])
def test_a_selector_that_cannot_be_read_is_refused_by_name(selector: str) -> None:
    with pytest.raises(ManorError) as refusal:
        parse(selector)
    assert refusal.value.kind is Kind.BAD_REQUEST
    assert refusal.value.problems[0].path == "selector"


def test_too_many_terms_are_refused() -> None:
    with pytest.raises(ManorError):
        parse(",".join(f"k{n}" for n in range(TERMS_MAX + 1)))


@given(st.text(max_size=200))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    refused = None
    try:
        matches(parse(text), NODE)
    except ManorError as refusal:
        refused = refusal.kind
    assert refused in (None, Kind.BAD_REQUEST)
