"""Child processes that do tasks one after the other; one that is lost is replaced."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from porter.fleet.children import Child, Children, Row

Item = TypeVar("Item")


class Crew(Generic[Item]):
    """Processes of a module that reads a task as a line of JSON, and answers by another."""

    def __init__(
        self, children: Children, workers: int, as_row: Callable[[Item], Row], attempts: int,
        first: Row | None = None, part: Callable[[Item, Row], None] | None = None,
    ) -> None:  # fmt: skip
        self._children = children
        self._workers = workers
        self._as_row = as_row
        self._attempts = attempts
        self._first = first
        self._part = part
        """Called with an answer that is marked as a part of one: others follow it."""
        self._items: Iterator[Item] = iter(())
        self._more: deque[Item] = deque()
        """Tasks that go before those."""
        self._turn = threading.Lock()
        self._live: set[Child] = set()
        self._faults: list[BaseException] = []

    def run(
        self,
        items: Iterable[Item],
        begin: Callable[[Item], None],
        finish: Callable[[Item, Row | None, str], Iterable[Item] | None],
    ) -> None:
        """Do tasks, as many at a time as there are processes.

        `begin` and `finish` are called by one thread at a time; `finish` with the answer, or with
        None and why the last process ended that had the task. It may return more tasks. An error
        that one of them raises ends all processes, and is raised here.
        """
        self._items = iter(items)
        threads = [
            threading.Thread(target=self._serve, args=(begin, finish), name="porter_crew")
            for _ in range(self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as fault:
            self._fail(fault)
            for thread in threads:
                thread.join()
            raise
        if self._faults:
            raise self._faults[0]

    def _fail(self, fault: BaseException) -> None:
        self._faults.append(fault)
        for child in [*self._live]:
            child.close(at_once=True)

    def _serve(
        self,
        begin: Callable[[Item], None],
        finish: Callable[[Item, Row | None, str], Iterable[Item] | None],
    ) -> None:
        child: Child | None = None
        try:
            while not self._faults and (item := self._next()) is not None:
                answer, why = None, ""
                for _ in range(self._attempts):
                    with self._turn:
                        begin(item)
                    child = child or self._started()
                    answer = self._ask(child, item)
                    if answer is not None or self._faults:
                        break
                    why = self._ended(child)
                    child = None
                with self._turn:
                    if not self._faults:
                        self._more.extend(finish(item, answer, why) or ())
        except BaseException as fault:  # noqa: BLE001 - it is raised by the thread that waits
            self._fail(fault)
        finally:
            if child is not None:
                self._ended(child)

    def _next(self) -> Item | None:
        """Return the next task; they are made while others are done."""
        with self._turn:
            return self._more.popleft() if self._more else next(self._items, None)

    def _ask(self, child: Child, item: Item) -> Row | None:
        """Return the answer to a task, after those that are parts of it."""
        answer = child.ask(self._as_row(item))
        while answer is not None and answer.get("more"):
            with self._turn:
                if self._part is not None and not self._faults:
                    self._part(item, answer)
            answer = child.answer()
        return answer

    def _started(self) -> Child:
        child = self._children.take()
        self._live.add(child)
        if self._first is not None:
            child.tell(self._first)
        return child

    def _ended(self, child: Child) -> str:
        """Close a process; return why it ended."""
        self._live.discard(child)
        return child.close()
