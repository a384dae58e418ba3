"""In which order records are written, so that foreign keys and unique values hold. Pure.

A step waits for another for one of three reasons: it refers to a row that the other makes; it takes
away a row that the other still refers to; it takes a unique value that the other gives up. Where
they wait for each other in a circle, a constraint that can be deferred ends it, or a reference that
can be NULL for a while.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from audit_app.revert.plan import FieldStep, Record, Step, Verb
from audit_app.revert.shapes import ForeignKey, Row, Shape, Unique
from audit_app.revert.values import dump, same


@dataclass(frozen=True)
class Wish:
    """What a record is to become.

    :ivar now: its row; None if there is none.
    :ivar then: its row after the plan, or the part of it that is known; None for none.
    """

    subject: int
    shape: Shape
    now: Row | None
    then: Row | None

    @property
    def verb(self) -> Verb:
        if self.now is None:
            return "insert"
        return "delete" if self.then is None else "update"

    @property
    def record(self) -> Record:
        audited = self.shape.audited
        key = self.shape.key_of(self.now if self.now is not None else self.then)
        return Record(audited.schema, audited.name, key)

    @property
    def changes(self) -> tuple[FieldStep, ...]:
        now, then = self.now or {}, self.then or {}
        return tuple(
            FieldStep(name, now.get(name), then.get(name))
            for name in self.names
            if name in now or name in then
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are written, in the order of the table."""
        now, then = self.now, self.then
        return tuple(
            column.name
            for column in self.shape.readable
            if now is None
            or then is None
            or (column.name in then and not same(now.get(column.name), then[column.name]))
        )


@dataclass(frozen=True)
class Order:
    """The steps in their order.

    :ivar deferred: constraints that must be deferred, as schema and name.
    :ivar stuck: subjects that wait for each other without a way out; the others need the first.
    """

    steps: tuple[Step, ...]
    deferred: tuple[tuple[str, str], ...]
    stuck: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Wait:
    """``later`` waits for ``earlier`` because of ``constraint``.

    :ivar makes: whether ``earlier`` makes what ``later`` refers to; otherwise it lets go of what
        ``later`` takes away or takes over.
    """

    later: int
    earlier: int
    constraint: ForeignKey | Unique
    makes: bool

    @property
    def deferrable(self) -> tuple[str, str] | None:
        """The constraint that can be deferred instead; None if it cannot."""
        found = self.constraint
        if isinstance(found, Unique):
            return None if found.constraint is None else (found.schema, found.constraint)
        # Other actions than NO ACTION happen at once, deferred or not.
        waits = self.makes or (found.on_delete == "a" and found.on_update == "a")
        return (found.schema, found.name) if found.deferrable and waits else None


_RANK: Final = {"insert": 0, "update": 1, "delete": 2}


def order(wishes: Iterable[Wish]) -> Order:
    """Return the steps that fulfil ``wishes``, one or two for each."""
    by_subject = {wish.subject: wish for wish in wishes if wish.changes}
    waits = {*_waits(list(by_subject.values()))}
    graph = _Graph(by_subject, waits)
    return graph.solve()


class _Graph:
    def __init__(self, wishes: Mapping[int, Wish], waits: set[_Wait]) -> None:
        self.wishes = wishes
        self.waits = waits
        self.deferred: set[tuple[str, str]] = set()
        self.stuck: list[tuple[int, ...]] = []
        self.before: dict[int, dict[str, None]] = {}  # columns that are NULL for a while: first
        self.after: dict[int, dict[str, None]] = {}  # … and at last set
        self.freed: set[tuple[int, int]] = set()  # (later, earlier): needs the first phase only
        self.completed: set[tuple[int, int]] = set()  # (later, earlier): holds for the last phase

    def solve(self) -> Order:
        while (cycle := self._cycle()) is not None:
            self._open(cycle)
        return self._steps()

    def _rank(self, subject: int) -> tuple[int, str, str, str]:
        wish = self.wishes[subject]
        audited = wish.shape.audited
        return _RANK[wish.verb], audited.schema, audited.name, dump(wish.record.key)

    def _sorted(self) -> list[int]:
        """Subjects in their order as far as it goes: those in circles are missing."""
        earlier: dict[int, set[int]] = {subject: set() for subject in self.wishes}
        later: dict[int, set[int]] = {subject: set() for subject in self.wishes}
        for wait in self.waits:
            earlier[wait.later].add(wait.earlier)
            later[wait.earlier].add(wait.later)
        ready = [(*self._rank(s), s) for s, needs in earlier.items() if not needs]
        heapq.heapify(ready)
        found = []
        while ready:
            subject = heapq.heappop(ready)[-1]
            found.append(subject)
            for waiting in later[subject]:
                earlier[waiting].discard(subject)
                if not earlier[waiting]:
                    heapq.heappush(ready, (*self._rank(waiting), waiting))
        return found

    def _cycle(self) -> list[_Wait] | None:
        left = set(self.wishes) - set(self._sorted())
        if not left:
            return None
        by_later: dict[int, list[_Wait]] = {}
        for wait in self.waits:
            if wait.later in left and wait.earlier in left:
                by_later.setdefault(wait.later, []).append(wait)
        path: list[_Wait] = []
        seen: dict[int, int] = {}
        subject = min(left, key=self._rank)
        while subject not in seen:
            seen[subject] = len(path)
            wait = min(by_later[subject], key=lambda w: (self._rank(w.earlier), w.constraint.name))
            path.append(wait)
            subject = wait.earlier
        return path[seen[subject] :]

    def _open(self, cycle: list[_Wait]) -> None:
        for wait in cycle:
            constraint = wait.deferrable
            if constraint is not None:
                self.deferred.add(constraint)
                self.waits = {w for w in self.waits if w.deferrable != constraint}
                return
        for wait in cycle:
            key = wait.constraint
            if isinstance(key, ForeignKey) and key.nulled:
                if wait.makes:  # the one that refers comes first, without its reference
                    self.after.setdefault(wait.later, {}).update(dict.fromkeys(key.nulled))
                    self.completed.add((wait.later, wait.earlier))
                else:  # the one that refers lets go first
                    self.before.setdefault(wait.earlier, {}).update(dict.fromkeys(key.nulled))
                    self.freed.add((wait.later, wait.earlier))
                self.waits.discard(wait)
                return
        self.stuck.append(tuple(wait.later for wait in cycle))
        self.waits.discard(cycle[0])

    def _steps(self) -> Order:
        sequence = self._sorted()
        earlier: dict[int, set[int]] = {}
        for wait in self.waits:
            earlier.setdefault(wait.later, set()).add(wait.earlier)
        freed: dict[int, set[int]] = {}
        for later, freeing in self.freed:
            freed.setdefault(later, set()).add(freeing)
        steps: list[Step] = []
        first: dict[int, int] = {}
        main: dict[int, int] = {}

        def add(
            subject: int, verb: Verb, changes: Iterable[FieldStep], needs: Iterable[int]
        ) -> int:
            id_ = len(steps)
            wish, found = self.wishes[subject], tuple(changes)
            steps.append(Step(id_, subject, verb, wish.record, found, tuple(sorted(set(needs)))))
            return id_

        # What lets go does so before everything else.
        for subject in sequence:
            if subject in self.before:
                wish = self.wishes[subject]
                now = wish.now or {}
                nulled = [FieldStep(n, now.get(n), None) for n in self.before[subject]]
                first[subject] = add(subject, "update", nulled, ())
        for subject in sequence:
            wish = self.wishes[subject]
            needs = {main[other] for other in earlier.get(subject, ())}
            needs |= {first[other] for other in freed.get(subject, ())}
            needs |= {first[subject]} if subject in first else set()
            main[subject] = add(subject, wish.verb, self._main_changes(wish), needs)
        for subject in sequence:
            if subject in self.after:
                wish = self.wishes[subject]
                then = after(wish) or {}
                set_ = [FieldStep(n, None, then[n]) for n in self.after[subject]]
                needs = {main[e] for late, e in self.completed if late == subject}
                add(subject, "update", set_, {*needs, main[subject]})
        return Order(tuple(steps), tuple(sorted(self.deferred)), tuple(self.stuck))

    def _main_changes(self, wish: Wish) -> tuple[FieldStep, ...]:
        """The changes of a record between its phase before and its phase after."""
        changes = {change.field: change for change in wish.changes}
        now, then = wish.now or {}, after(wish) or {}
        if wish.verb == "update":
            for name in self.before.get(wish.subject, ()):
                changes[name] = FieldStep(name, None, then[name])
        for name in self.after.get(wish.subject, ()):
            changes[name] = FieldStep(
                name, changes.get(name, FieldStep(name, now.get(name), None)).old, None
            )
        return tuple(changes.values())


def _waits(wishes: list[Wish]) -> Iterator[_Wait]:
    by_relation: dict[str, list[Wish]] = {}
    for wish in wishes:
        by_relation.setdefault(wish.shape.relation, []).append(wish)
    keys = {key for wish in wishes for key in wish.shape.foreign_keys}
    for key in keys:
        children, parents = by_relation.get(key.child, ()), by_relation.get(key.parent, ())
        yield from _of_foreign_key(key, children, parents)
    for same_table in by_relation.values():
        for unique in same_table[0].shape.uniques:
            yield from _of_unique(unique, same_table)


def _of_foreign_key(
    key: ForeignKey, children: Iterable[Wish], parents: Iterable[Wish]
) -> Iterator[_Wait]:
    makes: dict[str, Wish] = {}
    takes: dict[str, Wish] = {}
    for parent in parents:
        now, then = key.provided(parent.now), key.provided(after(parent))
        if now != then:
            if then is not None:
                makes[then] = parent
            if now is not None:
                takes[now] = parent
    for child in children:
        now, then = key.referred(child.now), key.referred(after(child))
        maker = makes.get(then) if then is not None else None
        if maker is not None and maker.subject != child.subject:
            yield _Wait(child.subject, maker.subject, key, makes=True)
        taker = takes.get(now) if now is not None else None
        if taker is None or taker.subject == child.subject or now == then:
            continue
        follows = (
            key.on_update == "c"
            and child.then is not None
            and taker.then is not None
            and key.provided(after(taker)) == then
        )
        if not follows:
            yield _Wait(taker.subject, child.subject, key, makes=False)


def _of_unique(unique: Unique, wishes: Iterable[Wish]) -> Iterator[_Wait]:
    gives: dict[str, Wish] = {}
    wishes = list(wishes)
    for wish in wishes:
        now = unique.value(wish.now)
        if now is not None and now != unique.value(after(wish)):
            gives[now] = wish
    for wish in wishes:
        then = unique.value(after(wish))
        giver = gives.get(then) if then is not None and then != unique.value(wish.now) else None
        if giver is not None and giver.subject != wish.subject:
            yield _Wait(wish.subject, giver.subject, unique, makes=False)


def after(wish: Wish) -> Row | None:
    """The whole row after the plan."""
    return None if wish.then is None else {**(wish.now or {}), **wish.then}
