"""The workshop: one piece at a time, by turns, watched, shared, bounded, and stopped when nobody waits any more.

Time is a clock that the test moves; threads meet at events.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from app.serving.worker import Asker, Finished, Reason, RefusedError, Report, Turns, Workshop
from db.errors import AtlasError

SOON = 20
"""Seconds until a test that hangs fails."""


class Clock:
    """The time, which passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class GoneError(Exception):
    """Whoever waited has gone."""


class Answer:
    """What a visitor waits for, on a thread of its own."""

    def __init__(self, bench: "Bench", owner: str, key: str, make: Callable[[Report], Any]) -> None:
        self._gone, self._looks, self._look_seen = threading.Event(), 0, threading.Condition()
        self.told: list[str] = []
        asker = Asker(owner, self._look)
        self._future = bench.threads.submit(bench.shop.result, "kind", key, make, self.told.append, asker)
        self._future.add_done_callback(lambda _: self._count())
        self.look(1)

    def result(self) -> Any:
        return self._future.result(SOON)

    def look(self, times: int = 2) -> None:
        """Return once the waiting thread has looked around so often, so that it was told what there is to tell."""
        with self._look_seen:
            enough = self._looks + times
            assert self._look_seen.wait_for(lambda: self._looks >= enough or self._future.done(), SOON)

    def go(self) -> None:
        """Stop waiting."""
        self._gone.set()
        with pytest.raises(GoneError):
            self.result()

    def _look(self) -> None:
        self._count()
        if self._gone.is_set():
            raise GoneError

    def _count(self) -> None:
        with self._look_seen:
            self._looks += 1
            self._look_seen.notify_all()


class Visitor:
    """A session, which may ask for several things."""

    def __init__(self, bench: "Bench", name: str) -> None:
        self._bench, self._name = bench, name

    def ask(self, key: str, make: Callable[[Report], Any] | None = None) -> Answer:
        """Ask; returns when the workshop knows (the visitor has begun to wait, or has the answer)."""
        return Answer(self._bench, self._name, key, make or self._bench.make(key))


class Bench:
    """A workshop with its clock, and a first piece that holds up all others until `open`."""

    def __init__(self, threads: ThreadPoolExecutor, **settings: Any) -> None:
        self.clock, self.threads = Clock(), threads
        self.done: list[str] = []
        self.ended: list[Finished] = []
        self.shop = Workshop({"kind": 40}, clock=self.clock, on_end=self.ended.append, **settings)
        self._gate, self._at_work = threading.Event(), threading.Event()

    def visitor(self, name: str) -> Visitor:
        return Visitor(self, name)

    def make(self, key: str) -> Callable[[Report], str]:
        def make(_report: Report) -> str:
            self.done.append(key)
            return key.upper()

        return make

    def hold(self) -> "Future[str]":
        """Begin a piece that ends with `open`; it is at work when this returns."""

        def make(report: Report) -> str:
            report("Holding …")
            self._at_work.set()
            assert self._gate.wait(SOON)
            report("Ending …")
            return "held"

        held: Future[str] = self.threads.submit(self.shop.result, "kind", "held", make, None, Asker("holder"))
        assert self._at_work.wait(SOON)
        return held

    def open(self) -> None:
        self._gate.set()


@contextmanager
def a_bench(**settings: Any) -> Iterator[Bench]:
    with ThreadPoolExecutor(30) as threads:
        bench = Bench(threads, **settings)
        try:
            yield bench
        finally:
            bench.open()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with a_bench() as made:
        yield made


def test_a_result_is_made_once(bench):
    assert [bench.visitor("a").ask("x").result() for _ in range(3)] == ["X"] * 3
    assert bench.visitor("b").ask("x").result() == "X"
    assert bench.done == ["x"]
    assert bench.shop.known("kind", "x") == "X"
    assert bench.shop.known("kind", "other") is None


def test_a_result_may_be_nothing(bench):
    made = []
    for _ in range(2):
        assert bench.shop.result("kind", "x", lambda _: made.append(1)) is None
    assert made == [1]


def test_two_who_ask_the_same_share_the_work(bench):
    held = bench.hold()
    both = [bench.visitor(name).ask("x") for name in "ab"]
    bench.open()
    assert [one.result() for one in both] == ["X", "X"]
    assert held.result(SOON) == "held"
    assert bench.done == ["x"]


def test_one_with_many_prompts_does_not_hold_up_the_others(bench):
    held, many = bench.hold(), bench.visitor("many")
    answers = [many.ask(f"many {n}") for n in range(20)]
    answers += [bench.visitor("one").ask("one"), bench.visitor("other").ask("other")]
    bench.open()
    for answer in (held, *answers):
        answer.result()
    assert bench.done[:4] == ["many 0", "one", "other", "many 1"]
    assert bench.done[4:] == [f"many {n}" for n in range(2, 20)]


def test_what_two_ask_for_comes_when_the_first_of_them_has_a_turn(bench):
    bench.hold()
    many, one = bench.visitor("many"), bench.visitor("one")
    answers = [many.ask("x"), many.ask("y"), many.ask("z"), one.ask("z")]
    bench.open()
    assert [answer.result() for answer in answers] == ["X", "Y", "Z", "Z"]
    assert bench.done == ["x", "z", "y"]


def test_who_waits_is_told_their_place_and_what_is_being_done(bench):
    bench.hold()
    first, second = bench.visitor("first").ask("x"), bench.visitor("second").ask("y")
    assert (first.told, second.told) == ([], [])  # a moment is not worth a word
    bench.clock.now += 1
    for answer in (first, second):
        answer.look()
    assert first.told == ["1 before yours. Now, for another: Holding …"]
    assert second.told == ["2 before yours. Now, for another: Holding …"]
    bench.open()
    assert (first.result(), second.result()) == ("X", "Y")


def test_who_waits_is_told_the_stages_of_their_own_work(bench):
    stages, at_work = threading.Semaphore(0), threading.Event()

    def make(report: Report) -> str:
        for stage in ("Reading …", "Writing …"):
            report(stage)
            at_work.set()
            assert stages.acquire(timeout=SOON)
        return "made"

    answer = bench.visitor("a").ask("x", make)
    for _ in range(2):
        assert at_work.wait(SOON)
        at_work.clear()
        bench.clock.now += 1
        answer.look()
        stages.release()
    assert answer.result() == "made"
    assert answer.told == ["Reading …", "Writing …"]


def test_the_last_place_leaves_out_what_was_dropped(bench):
    bench.hold()
    left, kept = bench.visitor("leaving").ask("x"), bench.visitor("staying").ask("y")
    bench.clock.now += 1
    kept.look()
    assert kept.told[-1].startswith("2 before yours")
    left.go()
    bench.clock.now += 100
    kept.look()
    assert kept.told[-1].startswith("1 before yours")
    bench.open()
    assert kept.result() == "Y"
    assert "x" not in bench.done


def test_waiting_work_that_all_have_left_is_never_done(bench):
    held = bench.hold()
    one, other = bench.visitor("one"), bench.visitor("other")
    answers = [one.ask("x"), other.ask("x"), bench.visitor("third").ask("y")]
    answers[0].go()
    answers[1].go()
    bench.clock.now += 100
    bench.open()
    assert answers[2].result() == "Y"
    assert held.result(SOON) == "held"
    assert bench.done == ["y"]


def test_waiting_work_goes_on_while_one_still_waits(bench):
    bench.hold()
    one, other = bench.visitor("one"), bench.visitor("other")
    left, kept = one.ask("x"), other.ask("x")
    left.go()
    bench.clock.now += 100
    bench.open()
    assert kept.result() == "X"


def test_a_page_that_is_drawn_anew_finds_its_work_still_going(bench):
    visitor, at_work, go = bench.visitor("a"), threading.Event(), threading.Event()

    def make(report: Report) -> str:
        at_work.set()
        assert go.wait(SOON)
        report("Second stage …")
        return "made"

    left = visitor.ask("x", make)
    assert at_work.wait(SOON)
    left.go()
    bench.clock.now += 1
    again = visitor.ask("x")
    bench.clock.now += 100  # more than the grace, but somebody waits
    go.set()
    assert again.result() == "made"
    assert bench.done == []  # nothing was made a second time


@pytest.mark.parametrize("moved_on", [True, False], ids=["asked for something else", "gone for long"])
def test_running_work_that_all_have_left_is_stopped_at_its_next_stage(bench, moved_on):
    visitor, at_work, go, finished = bench.visitor("a"), threading.Event(), threading.Event(), []

    def make(report: Report) -> None:
        at_work.set()
        assert go.wait(SOON)
        report("Second stage …")
        finished.append(1)

    left = visitor.ask("x", make)
    assert at_work.wait(SOON)
    left.go()
    if moved_on:
        answer = visitor.ask("y")
    else:
        bench.clock.now += 100
        answer = bench.visitor("b").ask("y")
    go.set()
    assert answer.result() == "Y"
    assert finished == []
    assert [(one.kind, one.outcome) for one in bench.ended] == [("kind", "left"), ("kind", "done")]
    assert visitor.ask("x").result() == "X"  # asked for again, it is made


def test_work_that_is_being_stopped_is_not_what_a_newcomer_gets(bench):
    visitor, newcomer = bench.visitor("a"), bench.visitor("b")
    at_work, go, told, end = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    def make(report: Report) -> str:
        at_work.set()
        assert go.wait(SOON)
        try:
            report("Second stage …")
        finally:
            told.set()
            assert end.wait(SOON)
        return "never"

    left = visitor.ask("x", make)
    assert at_work.wait(SOON)
    left.go()
    bench.clock.now += 100
    go.set()
    assert told.wait(SOON)  # it was told to stop, and has not ended yet
    answer = newcomer.ask("x")
    end.set()
    assert answer.result() == "X"


def test_a_result_whose_askers_left_during_its_last_stage_is_kept(bench):
    visitor, at_work, go = bench.visitor("a"), threading.Event(), threading.Event()

    def make(_report: Report) -> str:
        at_work.set()
        assert go.wait(SOON)
        return "made"

    left = visitor.ask("x", make)
    assert at_work.wait(SOON)
    left.go()
    bench.clock.now += 100
    go.set()
    assert bench.visitor("b").ask("y").result() == "Y"
    assert bench.shop.known("kind", "x") == "made"


def test_what_failed_is_told_and_may_be_tried_again(bench):
    visitor = bench.visitor("a")

    def failing(error: BaseException) -> Callable[[Report], Any]:
        def make(_report: Report) -> None:
            raise error

        return make

    for error in (AtlasError("unusable"), TimeoutError("its own"), ZeroDivisionError("a defect")):
        with pytest.raises(type(error), match=str(error)):
            visitor.ask("x", failing(error)).result()
    assert visitor.ask("x").result() == "X"
    assert [one.outcome for one in bench.ended] == ["unusable", "failed", "failed", "done"]


def test_more_than_may_wait_is_refused_and_what_is_known_is_not():
    with a_bench(waiting=2) as bench:
        known = bench.visitor("a").ask("known")
        assert known.result() == "KNOWN"
        bench.hold()
        answer = bench.visitor("a").ask("x")
        with pytest.raises(RefusedError, match="Too many prompts are waiting") as refused:
            bench.visitor("b").ask("y").result()
        assert refused.value.reason is Reason.BUSY
        assert bench.visitor("b").ask("known").result() == "KNOWN"
        shared = bench.visitor("b").ask("x")
        answer.go()
        bench.open()
        assert shared.result() == "X"


def test_what_nobody_waits_for_takes_no_place():
    with a_bench(waiting=2) as bench:
        bench.hold()
        bench.visitor("leaving").ask("x").go()
        bench.clock.now += 100
        answer = bench.visitor("b").ask("y")
        bench.open()
        assert answer.result() == "Y"
        assert bench.done == ["y"]


def test_who_waited_too_long_for_a_turn_is_told():
    with a_bench(patience=60) as bench:
        bench.hold()
        answer = bench.visitor("a").ask("x")
        bench.clock.now += 61
        with pytest.raises(RefusedError, match="waited too long"):
            answer.result()


def test_work_over_its_time_is_stopped_at_its_next_stage():
    with a_bench(limit=10) as bench:
        visitor, passed = bench.visitor("a"), []

        def make(report: Report) -> str:
            for seconds in (4, 5, 3, 0):
                bench.clock.now += seconds
                report("A stage …")
                passed.append(seconds)
            return "made"

        with pytest.raises(RefusedError, match="stopped after 10 seconds") as refused:
            visitor.ask("x", make).result()
        assert refused.value.reason is Reason.TIME
        assert passed == [4, 5]
        assert visitor.ask("x").result() == "X"  # and may be tried again
        assert [(one.outcome, one.seconds) for one in bench.ended] == [("refused", 12.0), ("done", 0.0)]


def test_waiting_and_what_serves_all_do_not_count_against_the_time():
    with a_bench(limit=10) as bench:
        bench.hold()

        def make(report: Report) -> str:
            with bench.shop.untimed():
                bench.clock.now += 60
            bench.clock.now += 9
            report("A stage …")
            return "made"

        answer = bench.visitor("a").ask("x", make)
        bench.clock.now += 30
        bench.open()
        assert answer.result() == "made"
        ended = bench.ended[-1]
        assert (ended.outcome, ended.waited, ended.seconds) == ("done", 30.0, 9.0)


def watched_bench(**settings: Any) -> tuple[AbstractContextManager[Bench], list[Callable[[], None]]]:
    """A bench whose pieces can be looked at, by what the list holds."""
    looks: list[Callable[[], None]] = []

    @contextmanager
    def watched(look: Callable[[], None]) -> Iterator[None]:
        looks.append(look)
        yield

    return a_bench(watched=watched, **settings), looks


def test_work_that_says_nothing_is_stopped_where_it_is_looked_at():
    made, looks = watched_bench(limit=10)
    with made as bench:

        def make(_report: Report) -> str:
            with bench.shop.untimed():
                bench.clock.now += 60
                looks[-1]()  # what serves all goes on
            for _ in range(4):
                bench.clock.now += 3
                looks[-1]()
            return "made"

        with pytest.raises(RefusedError, match="stopped after 10 seconds"):
            bench.visitor("a").ask("x", make).result()
        assert bench.ended[-1].seconds == 12


def test_to_begin_to_be_looked_at_takes_no_time():
    """The first piece of a server imports torch for it."""

    benches: list[Bench] = []

    def importing(_look: Callable[[], None]) -> AbstractContextManager[None]:
        benches[0].clock.now += 60
        return nullcontext()

    with a_bench(limit=10, watched=importing) as bench:
        benches.append(bench)

        def make(report: Report) -> str:
            report("A stage …")
            return "made"

        assert bench.visitor("a").ask("x", make).result() == "made"
        assert bench.ended[-1].seconds == 0


def test_work_that_says_nothing_is_stopped_when_all_have_left():
    made, looks = watched_bench()
    with made as bench:
        at_work, go, looked = threading.Event(), threading.Event(), []

        def make(_report: Report) -> str:
            at_work.set()
            assert go.wait(SOON)
            for _ in range(2):
                looks[-1]()
                looked.append(1)
            return "made"

        left = bench.visitor("a").ask("x", make)
        assert at_work.wait(SOON)
        left.go()
        bench.clock.now += 100
        newcomer = bench.visitor("b").ask("y")
        go.set()
        assert newcomer.result() == "Y"
        assert looked == []
        assert bench.ended[0].outcome == "left"


def test_of_what_comes_in_between_its_own_time_is_looked_at():
    """Work aside, which does another's piece at its next stage, has no less time for it."""
    made, looks = watched_bench(limit=10)
    with made as bench:

        def other(_report: Report) -> str:
            bench.clock.now += 9
            looks[0]()
            looks[1]()
            return "other"

        asked = []

        def aside(report: Report) -> str:
            bench.clock.now += 4
            asked.append(bench.threads.submit(bench.shop.result, "kind", "y", other, None, Asker("b")))
            while not bench.shop._turns._lines:
                time.sleep(0.001)
            report("A stage …")
            bench.clock.now += 4
            bench.shop.begun("kind", "x", aside, Asker("a"))  # its page is still there
            looks[0]()
            return "made"

        piece = bench.shop.begun("kind", "x", aside, Asker("a"))
        assert piece.finished.wait(SOON)
        assert asked[0].result(SOON) == "other"
        assert piece.outcome() == "made"
        assert [one.seconds for one in bench.ended] == [9, 8]


def test_only_so_many_results_are_kept():
    shop, made = Workshop({"kind": 2}), []

    def ask(key: str) -> None:
        shop.result("kind", key, lambda _: made.append(key))

    for key in "abac":
        ask(key)
    assert made == ["a", "b", "c"]
    ask("b")
    assert made == ["a", "b", "c", "b"]


def test_many_threads_at_once_agree(bench):
    start = threading.Barrier(20)

    def ask(n: int) -> list[str]:
        start.wait(SOON)
        return [
            bench.shop.result("kind", f"key {key}", bench.make(f"key {key}"), None, Asker(n % 4))
            for key in range(n % 5, n % 5 + 5)
        ]

    answers = list(bench.threads.map(ask, range(20)))
    assert answers == [[f"KEY {key}" for key in range(n % 5, n % 5 + 5)] for n in range(20)]
    assert sorted(bench.done) == [f"key {key}" for key in range(9)]


def test_turns_come_in_the_order_that_was_foretold():
    turns: Turns[str] = Turns()
    for owner, thing in ("a1", "a2", "a3", "b4", "b2", "c5", "a1"):
        turns.add(owner, thing)
    turns.drop("3")
    foretold = list(turns.order())
    assert foretold == ["1", "4", "5", "2"]
    assert [turns.next() for _ in range(5)] == [*foretold, None]


# Work that nobody waits for


def test_what_nobody_waits_for_gives_way_to_others_between_its_steps(bench):
    begun, asked = threading.Event(), threading.Event()

    def slow(report):
        begun.set()
        assert asked.wait(SOON)
        report("Half of it …")  # whoever waits comes now
        bench.done.append("slow")
        return "all of it"

    piece = bench.shop.begun("kind", "slow", slow, Asker("a"))
    assert begun.wait(SOON)
    answer = bench.visitor("a").ask("x")  # of the same visitor, who has not left for that
    asked.set()
    assert answer.result() == "X"
    assert piece.finished.wait(SOON)
    assert bench.done == ["x", "slow"]
    assert bench.shop.known("kind", "slow") == "all of it"


def test_it_ends_when_it_is_not_asked_for_again(bench):
    begun, later = threading.Event(), threading.Event()

    def slow(report):
        begun.set()
        assert later.wait(SOON)
        report("Half of it …")
        return "all of it"

    piece = bench.shop.begun("kind", "slow", slow, Asker("a"))
    assert begun.wait(SOON)
    bench.clock.now += 4
    assert bench.shop.begun("kind", "slow", slow, Asker("a")) is piece
    bench.clock.now += 6
    later.set()
    assert piece.finished.wait(SOON)
    assert [one.outcome for one in bench.ended] == ["left"]
    assert bench.shop.known("kind", "slow") is None


def test_its_failure_is_remembered_so_that_it_is_not_tried_again_and_again(bench):
    def fail(_report):
        raise AtlasError("It cannot be done.")

    assert bench.shop.begun("kind", "bad", fail, Asker("a")).finished.wait(SOON)
    with pytest.raises(AtlasError, match="cannot be done"):
        bench.shop.known("kind", "bad")
    assert bench.shop.begun("kind", "bad", bench.make("bad"), Asker("a")).error is not None
    assert bench.done == []


def test_its_time_is_not_counted_while_others_work():
    with a_bench(limit=10, grace=100) as bench:
        begun, asked = threading.Event(), threading.Event()

        def other(_report):
            bench.clock.now += 30
            return "other"

        def slow(report):
            begun.set()
            assert asked.wait(SOON)
            report("Half of it …")
            report("More …")
            return "all of it"

        piece = bench.shop.begun("kind", "slow", slow, Asker("a"))
        assert begun.wait(SOON)
        answer = bench.visitor("b").ask("x", other)
        asked.set()
        assert answer.result() == "other"
        assert bench.shop.result("kind", "slow", slow, None, Asker("a")) == "all of it"
        assert piece.error is None
