"""What became of records, from activities: where each began, and what has happened since. Pure.

A thread follows one record through a set of activities that are to be undone (its own) and all
others in between and after, also through changes of its key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from audit_app.revert.shapes import Row
from audit_app.revert.values import same

Table = tuple[str, str]


@dataclass(frozen=True)
class Event:
    """An activity, under the present names of its table and columns."""

    id: int
    table: Table
    verb: str
    key: str | None
    new_key: str | None
    old: Row | None
    changed: Row | None

    @property
    def after(self) -> Row | None:
        """The row after the change."""
        return None if self.verb == "delete" else {**(self.old or {}), **(self.changed or {})}


@dataclass(eq=False)
class Thread:
    """One record.

    :ivar born: whether it was inserted by the activities that are to be undone.
    :ivar state: its row as the trail has it last; None if it is gone.
    :ivar last: its last row that was there.
    :ivar goals: what the changed fields were before.
    :ivar disputed: fields of ``goals`` that others have changed since.
    :ivar hidden: fields that were changed from and to what the trail shows as the same.
    :ivar ended_by: who took it away: ``own`` or ``other``, or a ``truncate`` among the own, which
        cannot be undone; empty while it is there.
    :ivar keys: every key that it has had since.
    :ivar later: who changed a field last, and by which change, where a version is gone back to.
    """

    table: Table
    key: str
    born: bool
    state: Row | None
    last: Row
    goals: Row = field(default_factory=dict)
    disputed: dict[str, None] = field(default_factory=dict)
    hidden: Row = field(default_factory=dict)
    ended_by: str = ""
    keys: dict[str, None] = field(default_factory=dict)
    newest: int = 0
    later: dict[str, str] = field(default_factory=dict)

    @property
    def then(self) -> Row | None:
        """The row to go back to; None if it was not there."""
        if self.born:
            return None
        kept = {name: v for name, v in self.goals.items() if name not in self.disputed}
        return {**self.last, **(kept if self.ended_by else self.goals)}


@dataclass
class Story:
    """The threads, and what cannot be followed.

    :ivar truncated: tables that the activities themselves emptied.
    :ivar deleted: the last record that they deleted under a key.
    """

    threads: list[Thread] = field(default_factory=list)
    truncated: dict[Table, None] = field(default_factory=dict)
    deleted: dict[tuple[Table, str], Thread] = field(default_factory=dict)


class _Living:
    """The records that are there, by table and key.

    Where the primary key can be deferred, two of them may have one key for a while.
    """

    def __init__(self, twins: Collection[Table]) -> None:
        self._twins = twins
        self._threads: dict[tuple[Table, str], list[Thread]] = {}

    def find(self, event: Event) -> Thread | None:
        """Return the thread that an event belongs to."""
        found = self._threads.get((event.table, event.key or ""), [])
        for thread in found:
            if thread.state is not None and same(thread.state, event.old):
                return thread
        # Written behind the trail's back; or the other of two.
        return found[0] if found and event.table not in self._twins else None

    def put(self, thread: Thread) -> None:
        self._threads.setdefault((thread.table, thread.key), []).append(thread)

    def take(self, thread: Thread) -> None:
        self._threads[thread.table, thread.key].remove(thread)

    def of(self, table: Table, key: str | None = None) -> list[Thread]:
        """Return the threads of a table, or of one of its keys."""
        if key is not None:
            return [*self._threads.get((table, key), ())]
        return [
            thread
            for (place, _), threads in self._threads.items()
            if place == table
            for thread in threads
        ]


def tell(
    events: Iterable[Event], own: Collection[int], twins: Collection[Table] = frozenset()
) -> Story:
    """Follow the records of the ``own`` activities.

    :param events: in their order; those of others may be among them.
    :param twins: tables whose primary key can be deferred.
    """
    story = Story()
    living = _Living(twins)
    for event in events:
        is_own = event.id in own
        if event.verb == "truncate":
            if is_own:
                story.truncated[event.table] = None
            for thread in living.of(event.table):
                living.take(thread)
                _end(thread, event, by="truncate" if is_own else "other")
        elif event.key is not None:
            _follow(story, living, event, is_own=is_own)
    return story


def _follow(story: Story, living: _Living, event: Event, *, is_own: bool) -> None:
    key = event.key or ""
    if event.verb == "insert":
        for lost in living.of(event.table, key):  # gone behind the trail's back
            living.take(lost)
            _end(lost, event, by="other")
    thread = living.find(event)
    if thread is None:
        if not is_own:
            return
        thread = _begin(story, event, key)
        living.put(thread)
    thread.newest = event.id
    if event.verb == "delete":
        living.take(thread)
        _end(thread, event, by="own" if is_own else "other")
        if is_own:
            story.deleted[event.table, key] = thread
    elif event.verb == "insert":
        if thread.state is None:
            _again(thread, event)
    elif event.verb == "update":
        _update(thread, event, is_own=is_own)
        if event.new_key is not None:
            living.take(thread)
            thread.key = event.new_key
            thread.keys[event.new_key] = None
            living.put(thread)


def _begin(story: Story, event: Event, key: str) -> Thread:
    if event.verb == "insert":
        # Deleted and inserted anew by the same hand: one record that was changed.
        former = story.deleted.get((event.table, key))
        if former is not None and former.ended_by == "own":
            return former
    row = event.after if event.verb == "insert" else event.old
    thread = Thread(event.table, key, event.verb == "insert", row, row or {})
    thread.keys[key] = None
    story.threads.append(thread)
    return thread


def _again(thread: Thread, event: Event) -> None:
    row = event.after or {}
    for name in {**thread.last, **row}:
        if name not in row or name not in thread.last or not same(row[name], thread.last[name]):
            thread.goals.setdefault(name, thread.last.get(name))
    thread.state = thread.last = row
    thread.ended_by = ""


def _end(thread: Thread, event: Event, *, by: str) -> None:
    if event.old is not None and event.verb == "delete":
        thread.last = event.old
    thread.state, thread.ended_by, thread.newest = None, by, event.id


def _update(thread: Thread, event: Event, *, is_own: bool) -> None:
    old, changed = event.old or {}, event.changed or {}
    for name, value in changed.items():
        if not is_own:
            if name in thread.goals or thread.born:
                thread.disputed[name] = None
        elif same(old.get(name), value):
            thread.hidden[name] = value
        else:
            thread.goals.setdefault(name, old.get(name))
    thread.state = thread.last = event.after or {}


def keys_of(events: Sequence[Event]) -> dict[Table, set[str]]:
    """Return the keys that occur, by table."""
    found: dict[Table, set[str]] = {}
    for event in events:
        keys = found.setdefault(event.table, set())
        keys.update(key for key in (event.key, event.new_key) if key is not None)
    return found
