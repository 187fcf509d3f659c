import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.subjects import SUBJECT_BYTES_MAX, TOKENS_MAX, is_pattern, is_subject, matches, overlap

TOKEN = st.text("ab", min_size=1, max_size=2)
SUBJECT = st.lists(TOKEN, min_size=1, max_size=4).map(".".join)
PATTERN = st.tuples(
    st.lists(st.one_of(TOKEN, st.just("*")), max_size=3), st.one_of(TOKEN, st.sampled_from(["*", ">"]))
).map(lambda parts: ".".join([*parts[0], parts[1]]))


@pytest.mark.parametrize("text", ["a", "domain.web", "a-b_C.9", ".".join("a" * TOKENS_MAX)])
def test_a_subject_is_tokens_joined_by_dots(text):
    assert is_subject(text)
    assert is_pattern(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "a b", "a\n", "é", "*", "a.*", ">", "a.>", "a@b", "a/b", "x" * 256,
     ".".join("a" * (TOKENS_MAX + 1))],
)  # fmt: skip
def test_anything_else_is_not_a_subject(text):
    assert not is_subject(text)


@pytest.mark.parametrize("text", ["*", ">", "a.*", "*.a", "a.*.b.>", ".".join("*" * TOKENS_MAX)])
def test_a_pattern_may_hold_stars_and_end_in_the_rest(text):
    assert is_pattern(text)


@pytest.mark.parametrize("text", ["", ">.a", "a.>.b", "a*", "a.b*", "**", ".>", "a.\n>"])
def test_anything_else_is_not_a_pattern(text):
    assert not is_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a", "a", True), ("a", "b", False), ("a.*", "a.b", True), ("a.*", "a", False),
        ("a.*", "a.b.c", False), ("a.>", "a.b.c", True), ("a.>", "a", False), (">", "a.b", True),
        ("*.b", "a.b", True), ("a.*", "a.*", True), ("a.>", "a.*", True), ("a.>", "a.>", True),
        ("a.*", "a.>", False), ("a.b", "a.*", False), ("*", ">", False),
    ],
)  # fmt: skip
def test_what_lies_under_a_pattern(pattern, subject, expected):
    assert matches(pattern, subject) is expected


def test_the_longest_subject_is_bounded():
    assert is_subject("x" * SUBJECT_BYTES_MAX)
    assert not is_subject("x" * (SUBJECT_BYTES_MAX + 1))


@given(PATTERN, PATTERN, SUBJECT)
def test_a_pattern_under_another_matches_nothing_the_other_does_not(wide, narrow, subject):
    if matches(wide, narrow) and matches(narrow, subject):
        assert matches(wide, subject)


@given(PATTERN, PATTERN, SUBJECT)
def test_patterns_that_match_one_subject_overlap(left, right, subject):
    if matches(left, subject) and matches(right, subject):
        assert overlap(left, right)
        assert overlap(right, left)


@pytest.mark.parametrize(
    ("left", "right"), [("a", "b"), ("a.*", "b.*"), ("a.b", "a.b.c"), ("a.b.c", "a.b"), ("a.b.>", "a.c.>")]
)
def test_patterns_without_a_common_subject_do_not_overlap(left, right):
    assert not overlap(left, right)


@pytest.mark.parametrize(("left", "right"), [("a", "a.>"), ("a.>", "a")])
def test_the_rest_is_at_least_one_token(left, right):
    assert not overlap(left, right)
