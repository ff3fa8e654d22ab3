"""The workshop: one piece at a time, shared, remembered, and going on when nobody waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.work import Shelf, Workshop
from db.errors import AtlasError


def test_a_result_is_made_once():
    shop, numbers = Workshop({"kind": 4}), iter(range(9))
    for _ in range(3):
        assert shop.result("kind", "key", lambda _: next(numbers)) == 0
    assert shop.known("kind", "key") == 0
    assert shop.known("kind", "other") is None


def test_two_who_ask_the_same_share_the_work():
    shop, go, made = Workshop({"kind": 4}), threading.Event(), []

    def make(_report):
        go.wait(10)
        made.append(1)
        return "result"

    with ThreadPoolExecutor(2) as askers:
        both = [askers.submit(shop.result, "kind", "key", make) for _ in range(2)]
        go.set()
        assert [one.result(10) for one in both] == ["result", "result"]
    assert made == [1]


def test_work_goes_on_when_its_watcher_leaves():
    shop, go = Workshop({"kind": 4}), threading.Event()

    def make(report):
        report("at work")
        go.wait(10)
        return "result"

    class LeftError(Exception):
        pass

    def leave(stage):
        raise LeftError(stage)

    with pytest.raises(LeftError, match="at work"):
        shop.result("kind", "key", make, leave)
    assert shop.known("kind", "key") is None
    go.set()
    assert shop.result("kind", "key", lambda _: "another") == "result"


def test_what_failed_is_told_and_may_be_tried_again():
    shop = Workshop({"kind": 4})
    with pytest.raises(AtlasError, match="unusable"):
        shop.result("kind", "key", lambda _: (_ for _ in ()).throw(AtlasError("unusable")))
    with pytest.raises(TimeoutError):
        shop.result("kind", "key", lambda _: (_ for _ in ()).throw(TimeoutError))
    assert shop.result("kind", "key", lambda _: "result") == "result"


def test_too_much_work_and_too_long_a_wait_are_refused():
    shop, go = Workshop({"kind": 4}, waiting=1, patience=0.2), threading.Event()
    with pytest.raises(AtlasError, match="look again"):
        shop.result("kind", "slow", lambda _: go.wait(10))
    with pytest.raises(AtlasError, match="Too many"):
        shop.result("kind", "next", lambda _: "result")
    go.set()
    assert shop.result("kind", "slow", lambda _: False)


def test_a_shelf_forgets_what_was_not_used_for_longest():
    shelf: Shelf[str] = Shelf(2)
    for key in "ab":
        shelf.put(key, key.upper())
    shelf.get("a")
    shelf.put("c", "C")
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == ("A", None, "C")
