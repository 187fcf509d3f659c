from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.messages import documents
from manor_config import rules
from manor_config.rules import FIELDS, Rule, rule_of
from manor_config.shapes import fields_of

GOOD: list[tuple[Rule, list[Any]]] = [
    (rules.NAME, ["a", "Web-1_x", "0", "a" * 63]),
    (rules.WORD, ["pc-q35-7.2", "host", "Skylake-Client-v1"]),
    (rules.UUID, ["0af51c48-5ba1-4b5c-8b44-d3b1c0b9a7e1"]),
    (rules.FILE, ["/a", "/var/lib/x y.img", "/a/..b"]),
    (rules.MAC, ["00:16:3e:00:00:01", "FE:ff:ff:ff:ff:ff"]),
    (rules.NBD, ["nbd://h/x", "nbd://10.0.0.1:10809", "nbd://[::1]/a", "nbd+unix:///x?socket=/run/a.sock"]),
    (rules.PCI, ["03:00.0", "0000:1f:1f.7"]),
    (rules.USB, ["046d:c52b", "1.4", "1.4.2"]),
    (rules.LABELS, [("tier", "web"), ("example.org/a", ""), ("a", "me@here:1+2")]),
    (rules.LOOPBACK, ["127.0.0.1", "127.8.8.8", "::1"]),
    (rules.ADDRESS, ["10.0.0.1", "10.0.0.1/24", "fd00::1/64"]),
    (rules.NETWORK, ["10.0.2.0/24", "fd00::/64"]),
    (rules.LONG, ["two\nlines\tand more"]),
]
BAD: list[tuple[Rule, list[Any]]] = [
    (rules.NAME, ["", "a.b", "-a", "_a", "a" * 64, "a/b", "a b", "ä", "a\n"]),
    (rules.WORD, ["a,b=c", "a b", "-v", "a;b", "a\n"]),
    (rules.UUID, ["0af51c485ba14b5c8b44d3b1c0b9a7e1", "x"]),
    (rules.FILE, ["a", "/", "/a/../b", "/a//b", "/a/", "/./a", "/a\nb", "/a\0", "/" + "x" * 2000]),
    (rules.MAC, ["01:00:5e:00:00:01", "00:16:3e:00:00", "00-16-3e-00-00-01", "00:16:3e:00:00:0g"]),
    (rules.NBD, ["http://h", "nbd:h:1", "nbd://h/x?a=b", "nbd://h/x y", "nbd://h,x"]),
    (rules.PCI, ["3:0.0", "03:20.0", "03:00.8"]),
    (rules.USB, ["046d", "1", "a.b"]),
    (rules.LABELS, [("", ""), ("a b", ""), ("a", "x,y"), ("a", "x=y"), ("a", " ")]),
    (rules.LOOPBACK, ["0.0.0.0", "10.0.0.1", "localhost", ""]),
    (rules.ADDRESS, ["fe80::1%\x1b", "10.0.0", "10.0.0.1/33", "host"]),
    (rules.NETWORK, ["10.0.2.1/24", "x"]),
    (rules.LONG, ["\x00", "\x1b", "x" * 20_000]),
]
AFFINITY = FIELDS[documents.Cpu]["affinity"]


@pytest.mark.parametrize(("rule", "values"), GOOD)
def test_what_a_rule_allows(rule: Rule, values: list[Any]) -> None:
    assert [value for value in values if not rule.ok(value)] == []


@pytest.mark.parametrize(("rule", "values"), BAD)
def test_what_a_rule_refuses(rule: Rule, values: list[Any]) -> None:
    assert [value for value in values if rule.ok(value)] == []


@pytest.mark.parametrize("value", ["all", "0", "0-3", "0-3,^2", "node:0", "nodes:0-1,^node:1", "0, 2 , 4"])
def test_affinity_is_written_as_in_xl(value: str) -> None:
    assert AFFINITY.ok(value)


@pytest.mark.parametrize("value", ["", "a", "3-1", "0-", "^", "0,,1", "-1", "0-3-5", "99999"])
def test_affinity_that_means_nothing_is_refused(value: str) -> None:
    assert not AFFINITY.ok(value)


def test_a_range_has_both_ends() -> None:
    rule = rules.between(2, 1_024)
    assert [rule.ok(value) for value in (1, 2, 1_024, 1_025)] == [False, True, True, False]
    assert rule.allowed == "2 to 1_024"


def test_every_rule_speaks_about_a_field_that_exists_and_says_what_it_allows() -> None:
    for struct, fields in FIELDS.items():
        assert set(fields) <= set(fields_of(struct)), struct
        assert all(rule.allowed for rule in fields.values())
    assert rule_of(documents.Cpu, "count") is FIELDS[documents.Cpu]["count"]
    assert rule_of(documents.Console, "log") is None


@given(st.text(max_size=30))
def test_no_text_rule_lets_control_characters_into_one_line(text: str) -> None:
    for rule in (rules.NAME, rules.WORD, rules.FILE, rules.NBD, rules.TEXT, rules.ADDRESS, AFFINITY):
        if rule.ok(text):
            assert not any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in text)
