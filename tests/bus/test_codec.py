"""What is refused before anybody acts on it, and that two decoders never read two things."""

import json
from datetime import datetime
from pathlib import Path

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import Hello, Peers
from manor_bus.wire.messages.config import Apply, DocumentChanged
from tests.testkit.chance import SEARCH

SUITE = (
    Path(__file__).parents[2]
    / ".."
    / "shared"
    / "data"
    / "msgpack"
    / "msgpack-test-suite"
    / "msgpack-test-suite.json"
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(),
    st.binary(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=20,
)


def nested(depth, leaf=b"\x01"):
    return b"\x91" * depth + leaf


def entry(key, value):
    return msgpack.packb(key) + value


def reason(frame):
    with pytest.raises(codec.Malformed) as caught:
        codec.check(frame)
    return str(caught.value)


@SEARCH
@given(VALUES)
def test_plain_values_pass_and_both_decoders_read_them_alike(value):
    for frame in (codec.encode(value), msgpack.packb(value)):
        codec.check(frame)
        assert codec.decode(frame, object) == msgpack.unpackb(frame) == value


def cases():
    if not SUITE.exists():
        return []
    suite = json.loads(SUITE.read_text(encoding="utf-8"))
    return [
        pytest.param(bytes.fromhex(encoding.replace("-", "")), case, id=f"{group[:2]}-{encoding[:40]}")
        for group, entries in suite.items()
        for case in entries
        for encoding in case["msgpack"]
    ]


@pytest.mark.skipif(not SUITE.exists(), reason="the public MessagePack suite is not beside this project")
@pytest.mark.parametrize(("frame", "case"), cases())
def test_the_public_suite_is_read_alike_by_both_decoders_or_refused_with_a_reason(frame, case):
    if "ext" in case or "timestamp" in case:
        assert reason(frame)
        return
    codec.check(frame)
    ours, theirs = codec.decode(frame, object), msgpack.unpackb(frame)
    assert ours == theirs
    expected = next(value for key, value in case.items() if key != "msgpack")
    if "binary" in case:
        assert ours == bytes.fromhex(case["binary"].replace("-", ""))
    elif "bignum" in case and not any(key in case for key in ("number",)):
        assert ours == int(case["bignum"])
    else:
        assert ours == expected


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"", ""),
        (b"\xc1", ""),
        (b"\x82" + entry("a", b"\x01") * 2, "twice"),
        (b"\x81" + entry("a", b"\x82" + entry("b", b"\x01") * 2), "twice"),
        (b"\x91\x82" + entry("b", b"\x01") * 2, "twice"),
        (b"\x91\x91\x82" + entry("b", b"\xc0") * 2, "twice"),
        (b"\xde\x00\x02" + entry("a", b"\x01") * 2, "twice"),
        (b"\xdf\x00\x00\x00\x02" + entry("a", b"\x01") * 2, "twice"),
        (nested(codec.DEPTH_MAX + 1), "deep"),
        (b"\x81" + entry("a", nested(codec.DEPTH_MAX)), "deep"),
        (nested(2_000), "deep"),
        (b"\x81\x01\x02", ""),
        (b"\x81\xc0\x02", ""),
        (b"\x81\xc4\x01a\x02", ""),
        (b"\x91\x81\x01\x02", ""),
        (b"\xd4\x05\x00", "extension"),
        (b"\xd6\xff\x00\x00\x00\x00", "extension"),
        (b"\x91\xd6\xff\x00\x00\x00\x00", "extension"),
        (b"\x81" + entry("t", b"\xd6\xff\x00\x00\x00\x00"), "extension"),
        (b"\x91\xc7\x01\x05\x00", "extension"),
        (b"\x91", ""),
        (b"\x81\xa1a", ""),
        (b"\x92\x01", ""),
        (b"\x01\x01", ""),
        (b"\x91\x01\x01", ""),
        (b"\xa1\xff", ""),
        (b"\x91\xa1\xff", ""),
        (b"\x81\xa1\xff\x01", ""),
        (b"\xdd\xff\xff\xff\xff", ""),
        (b"\xdf\xff\xff\xff\xff", ""),
        (b"\x91\xdd\x7f\xff\xff\xff", ""),
        (b"\xdc\xff\xff" + b"\x91\xdc\xff\xff", ""),
        (b"\x92\xa1\xff\xc5\xff\xff" + b"x" * 0xFFFF, ""),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_reason(frame, said):
    assert said in reason(frame)


def test_the_reason_never_holds_what_was_sent():
    assert "secret" not in reason(b"\x82" + entry("secret", b"\x01") * 2)


def test_elements_are_bounded_wherever_they_are():
    many = codec.ELEMENTS_MAX + 1
    assert "elements" in reason(b"\xdd" + many.to_bytes(4, "big") + b"\x01" * many)
    half = codec.ELEMENTS_MAX // 2 + 1
    row = b"\xdd" + half.to_bytes(4, "big") + b"\x90" * half
    assert "elements" in reason(b"\x92" + row + row)
    codec.check(b"\x91" + row)


def test_elements_of_small_arrays_count_too():
    row = b"\xdc\x10\x00" + b"\x01" * 0x1000
    rows = codec.ELEMENTS_MAX // 0x1000 + 1
    assert "elements" in reason(b"\xdc" + rows.to_bytes(2, "big") + row * rows)


def test_the_deepest_value_that_is_allowed_passes():
    codec.check(nested(codec.DEPTH_MAX))
    codec.check(nested(codec.DEPTH_MAX - 1, b"\x81\xa1a\x01"))


@SEARCH
@given(st.binary(max_size=60))
@example(b"\xdc\x00\x01\xc1")
def test_any_bytes_pass_or_are_refused_and_never_break_the_decoder(frame):
    try:
        codec.check(frame)
    except codec.Malformed:
        return
    value = codec.decode(frame, object)
    assert depth(value) <= codec.DEPTH_MAX
    assert not isinstance(value, datetime)
    assert msgpack.unpackb(frame) == value or value != value


def depth(value):
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@SEARCH
@given(VALUES, st.data())
def test_a_frame_with_one_byte_changed_passes_or_is_refused(value, data):
    frame = bytearray(codec.encode({"k": 3, "data": value}))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.check(bytes(frame))
    except codec.Malformed:
        return
    codec.decode(bytes(frame), object)


@SEARCH
@given(st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=3), st.data())
def test_a_key_that_stands_twice_is_found_wherever_it_is(content, data):
    """Repeat one entry of a map, at a random depth."""
    key = data.draw(st.sampled_from(sorted(content)))
    packed = b"".join(entry(k, codec.encode(v)) for k, v in content.items())
    frame = bytes((0x80 | (len(content) + 1),)) + packed + entry(key, codec.encode(content[key]))
    for _ in range(data.draw(st.integers(0, 3))):
        frame = b"\x81\xa1x" + frame if data.draw(st.booleans()) else b"\x92\xa1y" + frame
    assert reason(frame)


def test_only_a_map_has_fields():
    assert codec.fields(b"\x81\xa1a\x92\x01\x02") == {"a": msgspec.Raw(b"\x92\x01\x02")}
    for frame in (b"\x91\x01", b"\xc0", b"", b"\x82" + entry("a", b"\x01") * 2, b"\x81\x01\x01"):
        with pytest.raises(codec.Malformed):
            codec.fields(frame)


def test_a_body_that_is_not_what_it_should_be_is_refused_with_its_path():
    with pytest.raises(ManorError) as caught:
        codec.decode(codec.encode({"protocol": [1, 1], "instance": "a", "serves": ["x", 5]}), Hello)
    assert caught.value.kind is Kind.BAD_REQUEST
    [problem] = caught.value.problems
    assert problem.path == "serves[1]"
    assert "str" in problem.reason


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x81", b"\xa1\xff", b"\x91" * 5_000 + b"\x01"])
def test_what_is_not_messagepack_at_all_is_refused_in_the_same_way(frame):
    with pytest.raises(ManorError) as caught:
        codec.decode(frame, Hello)
    assert caught.value.kind is Kind.BAD_REQUEST


@pytest.mark.parametrize(
    ("value", "why"),
    [("\ud800", "half of a character"), (2**64, "beyond 64 bits"), (-(2**63) - 1, "beyond 64 bits"),
     (object(), "cannot be encoded")],
)  # fmt: skip
def test_what_cannot_be_encoded_is_refused_with_the_reason(value, why):
    with pytest.raises(ManorError) as caught:
        codec.encode({"a": [value]})
    assert caught.value.kind is Kind.BAD_REQUEST
    assert why in caught.value.problems[0].reason


def test_the_body_of_a_call_is_read_and_checked_by_who_answers_it():
    assert codec.read_body(codec.NIL, Peers) == Peers()
    whole = {"protocol": [1, 1], "instance": "a"}
    assert codec.read_body(msgspec.Raw(msgpack.packb({**whole, "new": [1]})), Hello).instance == "a"
    head = b"\x83" + entry("protocol", b"\x92\x01\x01") + entry("instance", b"\xa1a")
    for more, said in (
        (entry("instance", b"\xa1b"), "twice"),
        (entry("new", nested(codec.DEPTH_MAX)), "deep"),
        (entry("new", b"\xd4\x05\x00"), "extension"),
    ):
        with pytest.raises(ManorError) as caught:
            codec.read_body(msgspec.Raw(head + more), Hello)
        assert caught.value.kind is Kind.BAD_REQUEST
        assert said in str(caught.value)


@pytest.mark.parametrize("wanted", [Apply, DocumentChanged, object])
@pytest.mark.parametrize(
    ("value", "said"),
    [(nested(40), "deep"), (b"\xd4\x05\x00", "extension"),
     (b"\xd6\xff\x00\x00\x00\x00", "extension"), (b"\x82" + entry("b", b"\x01") * 2, "twice"),
     (b"\x81\x01\x01", "not a string")],
)  # fmt: skip
def test_what_a_body_may_hold_anything_in_is_checked_too_however_it_is_written(wanted, value, said):
    document = b"\x81" + entry("extra", b"\x81" + entry("a", value))
    metadata = entry("kind", codec.encode("Domain")) + entry("metadata", codec.encode({"name": "a"}))
    document = b"\x83" + metadata + entry("spec", document)
    body = b"\x81" + (
        entry("document", document) if wanted is DocumentChanged else entry("documents", b"\x91" + document)
    )
    with pytest.raises(ManorError) as caught:
        codec.read_body(msgspec.Raw(body), wanted)
    assert said in str(caught.value)
