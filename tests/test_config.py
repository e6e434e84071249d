"""The strict conversion between dataclasses and JSON values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from inrwsi.config import ConfigError, check, check_int, from_dict, to_dict


@dataclass(frozen=True)
class Inner:
    size: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_int("size", self.size, 1, 100)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    items: tuple[Inner, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    texts: dict[str, str] = field(default_factory=dict)
    loose: dict[str, Any] = field(default_factory=dict)
    maybe: float | None = None
    flag: bool = False


FULL = Outer("n", Inner(3, 0.5), (Inner(1), Inner(2)), (7, 8.5), {"a": "b"}, {"x": [1, {"y": None}]}, 2.5, True)


def test_there_and_back_through_json() -> None:
    assert from_dict(Outer, json.loads(json.dumps(to_dict(FULL)))) == FULL
    least = Outer("n", Inner(3))
    assert from_dict(Outer, to_dict(least)) == least


def test_the_dict_is_plain_and_leaves_none_out() -> None:
    assert to_dict(Outer("n", Inner(3))) == {
        "name": "n",
        "inner": {"size": 3, "scale": 1.0},
        "items": [],
        "pair": [1, 2.0],
        "texts": {},
        "loose": {},
        "flag": False,
    }


def test_null_is_none_and_whole_numbers_are_floats_where_floats_stand() -> None:
    config = from_dict(Outer, {"name": "n", "inner": {"size": 3, "scale": 2}, "maybe": None})
    assert config.maybe is None
    assert type(config.inner.scale) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name is 3, should be str"),
        ({"flag": 1}, "flag is 1, should be bool"),
        ({"flag": None}, "flag is None, should be bool"),
        ({"inner": None}, "inner is None, should be an object"),
        ({"inner": []}, "inner is list, should be an object"),
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": {"size": True}}, "inner.size is True, should be int"),
        ({"inner": {"size": 3.0}}, "inner.size is 3.0, should be int"),
        ({"inner": {"size": 101}}, "inner.size is 101, should be from 1 to 100"),
        ({"inner": {"size": 1, "scale": float("nan")}}, "inner.scale is nan, should be a finite number"),
        ({"inner": {"size": 1, "scale": 10**400}}, "inner.scale is 1"),
        ({"inner": {"size": 1, "scale": True}}, "inner.scale is True, should be float"),
        ({"inner": {"size": 1, "sise": 2}}, "inner.'sise' is not a known key; known are size, scale"),
        ({"items": [{"size": 1}, {"size": 0}]}, "items[1].size is 0, should be from 1 to 100"),
        ({"items": {}}, "items is dict, should be a list"),
        ({"pair": [1]}, "pair has 1 values, should have 2"),
        ({"pair": [1.5, 1]}, "pair[0] is 1.5, should be int"),
        ({"texts": {"a": 1}}, "texts.'a' is 1, should be str"),
        ({"texts": []}, "texts is list, should be an object"),
        ({"maybe": "x"}, "maybe is 'x', should be float"),
        ({"other": 1}, "'other' is not a known key"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_is_refused_and_how(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, {"name": "n", "inner": {"size": 3}} | change)
    assert str(caught.value).startswith(message)


def test_a_missing_key_and_no_object_at_all() -> None:
    with pytest.raises(ConfigError, match=r"^name is missing$"):
        from_dict(Outer, {"inner": {"size": 3}})
    with pytest.raises(ConfigError, match=r"^Outer is list, should be an object$"):
        from_dict(Outer, [])


def test_unknown_keys_are_passed_over_at_any_depth_where_asked() -> None:
    data = {"name": "n", "new": 1, "inner": {"size": 3, "new": 1}, "items": [{"size": 4, "new": 1}]}
    assert from_dict(Outer, data, ignore_unknown=True) == Outer("n", Inner(3), (Inner(4),))


def test_messages_are_short_whatever_stands_in_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, {"name": "n", "inner": {"size": "9" * 10**6}})
    assert len(str(caught.value)) < 120


def test_check() -> None:
    check(True, "key", 1, "anything")
    with pytest.raises(ConfigError, match=r"^key is 'v', should be 2$"):
        check(False, "key", "v", "2")
    check_int("key", 2, 2, 2)
    with pytest.raises(ValueError, match="key is 3, should be from 1 to 2"):
        check_int("key", 3, 1, 2)
