from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.errors import Kind, ManorError
from manor_config.selectors import matches, parse, refusal

LABELS = {"tier": "web", "app/name": "shop", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("", True),
        ("tier=web", True),
        ("tier=db", False),
        ("tier!=db", True),
        ("tier!=web", False),
        ("absent!=web", True),
        ("absent=web", False),
        ("tier", True),
        ("empty", True),
        ("empty=", True),
        ("absent", False),
        ("!absent", True),
        ("!tier", False),
        ("tier=web, app/name=shop", True),
        ("tier=web,app/name=other", False),
    ],
)
def test_all_terms_must_hold(selector: str, holds: bool) -> None:
    assert matches(parse(selector), LABELS) is holds


@pytest.mark.parametrize("selector", ["=", "a=b=c", "a b", ",", "a=b,", "!a=b", "ä=1", "a\nb", "x" * 2000])
def test_what_cannot_be_read_is_refused(selector: str) -> None:
    with pytest.raises(ManorError) as refused:
        parse(selector)
    assert refused.value.kind is Kind.BAD_REQUEST
    assert refused.value.problems[0].allowed


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_has_a_reason(text: str) -> None:
    if refusal(text):
        with pytest.raises(ManorError):
            parse(text)
    else:
        matches(parse(text), LABELS)
