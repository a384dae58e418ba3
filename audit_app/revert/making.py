"""How a plan is made: the trail says what was, the database what is, and the rest is comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import history, models
from audit_app import identity as identities
from audit_app.errors import (
    InvalidOptionError,
    PlanError,
    RecordNotFoundError,
    UnknownVersionError,
)
from audit_app.revert import conflicts, shapes
from audit_app.revert.conflicts import Found
from audit_app.revert.ordering import Wish, order
from audit_app.revert.plan import Guard, Plan, Record
from audit_app.revert.shapes import Row, Shape
from audit_app.revert.story import Event, Story, Table, Thread, keys_of, tell

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable
    from audit_app.formerly import Place

_LATER: Final = 1_000
"""Later changes of a record that are asked for who made them, at the most, the newest."""

LIMIT: Final = 10_000
"""Changes that one plan goes back on, and that are looked at after them, at the most."""


class Maker:
    """Makes one plan, within one look at the database.

    :param place: tells the present name of a table.
    """

    def __init__(
        self,
        connection: sa.Connection,
        classes: models.ModelSet,
        audited: Iterable[AuditedTable],
        place: Callable[[str, str], Place],
    ) -> None:
        self.connection = connection
        self.activity: Any = classes.activity
        self.transaction: Any = classes.transaction
        self.tables = {(table.schema, table.name): table for table in audited}
        self.audit_schema: str = classes.activity.__table__.schema
        self.place = place
        self.found = Found()

    # -- The three kinds of plans -------------------------------------------------------------

    def restore(
        self,
        audited: AuditedTable,
        identity: Any,
        version: int | datetime,
        fields: Sequence[str] | None,
    ) -> Plan:
        """Plan to give a record the values that it had."""
        with self._look():
            key = self._key(identity)
            newest = self._story_of(audited, key, limit=1)
            try:
                id_, row = self._version(audited, key, version)
            except UnknownVersionError as error:
                record = Record(audited.schema, audited.name, self._key_values(audited, identity))
                self.found.add("unknown", None, record, (), str(error), ("skip",), "nothing")
                return self._plan(f"Restore {record}", {"activities": []}, [], [])
            thread = self._thread_to(audited, identity, newest, row, fields)
            if thread.goals:
                thread.later = self._later(audited, key, id_, {*thread.goals})
            title = f"Restore {audited.schema}.{audited.name} {key} as it was {_when(version)}"
            guards = self._guards(newest, [thread])
            return self._plan(title, {"activities": [id_]}, [thread], guards)

    def undelete(self, audited: AuditedTable, identity: Any, *, with_children: bool) -> Plan:
        """Plan to bring a record back, and what went with it."""
        with self._look():
            key = self._key(identity)
            deleted = self._deletion(audited, key)
            chosen = [deleted]
            if with_children and deleted.verb == "delete":
                chosen = self._subtree(deleted)
            if deleted.verb != "delete":  # gone with a truncation
                thread = Thread(
                    deleted.table, key, born=False, state=None, last=deleted.after or {}
                )
                thread.ended_by, thread.keys = "own", {key: None}
                guards = self._guards([deleted], [thread])
                threads = [thread]
            else:
                story, guards = self._tell(chosen)
                threads = story.threads
            title = f"Bring back {audited.schema}.{audited.name} {key}"
            reverts = {"activities": sorted(event.id for event in chosen)}
            return self._plan(title, reverts, threads, guards)

    def undo(self, transaction_ids: Sequence[int], title: str, reverts: dict[str, Any]) -> Plan:
        """Plan to take back what transactions did."""
        with self._look():
            activity = self.activity
            own = self._events(activity.transaction_id.in_(transaction_ids))
            if not own:
                raise RecordNotFoundError
            events = [event for event in own if self._is_undoable(event)]
            story, guards = self._tell(events) if events else (Story(), [])
            for table in story.truncated:
                self.found.add(
                    "truncated", None, Record(*table), (),
                    "the table was truncated, and the trail does not hold the rows that it had: "
                    "they have to come from a backup", ("skip",), "nothing",
                )  # fmt: skip
            return self._plan(title, reverts, story.threads, guards)

    def transactions_of(self, actor_id: str | None, since: datetime, until: datetime) -> list[int]:
        """Return the transactions of an actor, the oldest first."""
        table = self.transaction
        query = (
            sa.select(table.id)
            .where(
                table.actor_id.is_(None) if actor_id is None else table.actor_id == actor_id,
                table.issued_at >= since,
                table.issued_at < until,
            )
            .order_by(table.issued_at, table.id)
            .limit(LIMIT + 1)
        )
        found = [*self.connection.scalars(query)]
        if len(found) > LIMIT:
            raise PlanError(_too_many())
        return found

    # -- From the trail -----------------------------------------------------------------------

    @contextmanager
    def _look(self) -> Iterator[None]:
        """Read in the form of the trail, and leave nothing behind."""
        savepoint = self.connection.begin_nested()
        try:
            with shapes.stored_form(self.connection):
                yield
        finally:
            savepoint.rollback()

    @staticmethod
    def _key(identity: Any) -> str:
        key = identities.encode(identity)
        if key is None:
            raise InvalidOptionError("A plan needs a record: pass its identity as well.")
        return key

    def _key_values(self, audited: AuditedTable, identity: Any) -> tuple[tuple[str, Any], ...]:
        shape = self._shape(audited)
        parts = identity if isinstance(identity, tuple | list) else (identity,)
        texts = [identities.encode(part) for part in parts]
        return tuple(zip(shape.key, texts, strict=False))

    def _shape(self, audited: AuditedTable) -> Shape:
        found = shapes.read_shapes(self.connection, [audited])
        try:
            return found[audited.schema, audited.name]
        except KeyError:
            raise PlanError(f"The table {audited.regclass} does not exist.") from None

    def _events(self, *conditions: Any, order_by: Any = None, limit: int = LIMIT) -> list[Event]:
        activity = self.activity
        query = (
            sa.select(
                activity.id, activity.schema_name, activity.table_name, activity.verb,
                activity.object_key.label("object_key"),
                activity.new_object_key.label("new_object_key"),
                activity.old_data, activity.changed_data,
            )
            .where(*conditions)
            .order_by(activity.id if order_by is None else order_by)
            .limit(limit + 1)
        )  # fmt: skip
        found = [self._event(row) for row in self.connection.execute(query)]
        if len(found) > limit and limit == LIMIT:
            raise PlanError(_too_many())
        return found[:limit]

    def _event(self, row: Any) -> Event:
        place = self.place(row.schema_name, row.table_name)
        for document in (row.old_data, row.changed_data):
            if isinstance(document, models.Undecoded):
                raise PlanError(
                    f"The change {row.id} of {place.schema}.{place.name} {row.object_key} is "
                    "nested too deeply to be read: it has to be taken back by hand."
                )
        old, changed = place.formerly.present(row.old_data, row.changed_data)
        table = (place.schema, place.name)
        return Event(row.id, table, row.verb, row.object_key, row.new_object_key, old, changed)

    def _story_of(
        self, audited: AuditedTable, key: str, *, limit: int, verb: str = ""
    ) -> list[Event]:
        activity = self.activity
        ids = history.of_record(
            activity, audited.schema, audited.name, key, formerly=audited.formerly
        )
        if verb:
            ids = ids.where(activity.verb == verb)
        ids = ids.with_only_columns(activity.id).limit(limit)
        newest = [*self.connection.scalars(ids)]
        return self._events(activity.id.in_(newest), order_by=activity.id.desc(), limit=limit)

    def _version(self, audited: AuditedTable, key: str, version: int | datetime) -> tuple[int, Row]:
        activity = self.activity
        if isinstance(version, datetime):
            if version.tzinfo is None:
                raise InvalidOptionError(
                    f"version={version!r} has no time zone: give it one, as in "
                    "datetime(…, tzinfo=UTC)."
                )
            query = history.version_at(
                activity, audited.schema, audited.name, key, version, formerly=audited.formerly
            )
            rows = self.connection.execute(query).all()
            row = history.state_of(rows, audited.formerly)
            id_ = next((part.id for part in rows if part.part == "last"), 0)
        else:
            query = history.of_record(
                activity, audited.schema, audited.name, key, formerly=audited.formerly
            )
            ids = query.where(activity.id == version).with_only_columns(activity.id)
            if self.connection.scalar(ids) is None:
                raise RecordNotFoundError(
                    f"The change {version} is none of {audited.name} {key}: use the id of an "
                    "activity of this record."
                )
            event = self._events(activity.id == version)[0]
            id_, row = event.id, event.after
        if row is None:
            raise PlanError(
                f"{audited.name} {key} did not exist {_when(version)}: restore it to a moment at "
                "which it did, or undo the transaction that made it."
            )
        return id_, row

    def _thread_to(
        self,
        audited: AuditedTable,
        identity: Any,
        newest: Sequence[Event],
        row: Row,
        fields: Sequence[str] | None,
    ) -> Thread:
        """Return the thread that leads from a record as it is to a former ``row``."""
        shape, key = self._shape(audited), self._key(identity)
        event = newest[0] if newest else None
        last = event.after or event.old or {} if event else {}
        last = {**dict(self._key_values(audited, identity)), **last}
        wanted = [name for name in row if name not in shape.key] if fields is None else [*fields]
        for name in wanted:
            if fields is not None and (name not in row or name in shape.unrecorded):
                raise PlanError(
                    f"{name!r} cannot be restored: the trail does not hold it. It holds "
                    f"{', '.join(sorted(set(row) - shape.unrecorded))}."
                )
        texts = {text: None for text in (key, event and (event.new_key or event.key)) if text}
        thread = Thread(
            (audited.schema, audited.name), key, born=False, state=None, last=row, keys=texts
        )
        located = dict(shape.key_of(last))
        exists = (
            bool(located) and shapes.read_rows(self.connection, shape, [located])[0] is not None
        )
        if not exists:
            if fields is not None:
                raise PlanError("The record is gone: it can only be restored as a whole.")
            thread.ended_by = "own"
            return thread
        thread.state, thread.last = (event.after if event else None) or last, last
        thread.goals = {name: row[name] for name in wanted if name not in shape.unrecorded}
        kept = sorted(shape.unrecorded)
        if kept and fields is None:
            self.found.notes.append(
                f"What the trail does not hold stays as it is: {', '.join(kept)}."
            )
        return thread

    def _later(
        self, audited: AuditedTable, key: str, version: int, fields: Collection[str]
    ) -> dict[str, str]:
        """Return who changed each of these fields last after a version, and by which change."""
        activity = self.activity
        ids = (
            history.of_record(
                activity, audited.schema, audited.name, key, formerly=audited.formerly
            )
            .where(activity.id > version)
            .with_only_columns(activity.id)
            .limit(_LATER)
        )
        newest = [*self.connection.scalars(ids)]
        last: dict[str, int] = {}
        for event in self._events(activity.id.in_(newest), order_by=activity.id.desc()):
            for name in (event.changed or {}).keys() & fields:
                last.setdefault(name, event.id)
        actors = self._actors_of(last.values())
        return {name: f"by {actors[id_]} in the change {id_}" for name, id_ in last.items()}

    def _actors_of(self, ids: Iterable[int]) -> dict[int, str]:
        activity, transaction = self.activity, self.transaction
        query = (
            sa.select(activity.id, transaction.actor_label, transaction.actor_id)
            .outerjoin(transaction, transaction.id == activity.transaction_id)
            .where(activity.id.in_([*ids]))
        )
        rows = self.connection.execute(query)
        return {id_: label or actor or "somebody unknown" for id_, label, actor in rows}

    def _deletion(self, audited: AuditedTable, key: str) -> Event:
        """Return the delete of a record; or its last change, if a truncation took it."""
        newest = self._story_of(audited, key, limit=1)
        truncations = shapes.newest(
            self.connection, self.audit_schema, [(audited.place.names, ())]
        )[0]
        if newest and newest[0].verb != "delete" and truncations and truncations > newest[0].id:
            return newest[0]
        deleted = self._story_of(audited, key, limit=1, verb="delete")
        if not deleted:
            raise PlanError(
                f"The trail holds no deletion of {audited.name} {key}: there is nothing to bring "
                "back."
            )
        return deleted[0]

    def _subtree(self, root: Event) -> list[Event]:
        """Return the delete and what went with it: rows that referred to it, and references."""
        activity = self.activity
        transaction_id = self.connection.scalar(
            sa.select(activity.transaction_id).where(activity.id == root.id)
        )
        events = self._events(activity.transaction_id == transaction_id)
        known = [self.tables[t] for t in {e.table for e in events} if t in self.tables]
        found = shapes.read_shapes(self.connection, known)
        by_relation = {shape.relation: table for table, shape in found.items()}
        referring: dict[tuple[str, Table, str], list[Event]] = {}
        for event in events:
            for key in found[event.table].parents if event.table in found else ():
                value = key.referred(event.old) if event.verb in {"delete", "update"} else None
                if value is not None:
                    referring.setdefault((key.name, event.table, value), []).append(event)
        chosen: dict[int, Event] = {}
        waiting = [root]
        while waiting:
            row = waiting.pop()
            if row.id in chosen or row.table not in found:
                continue
            chosen[row.id] = row
            if row.verb != "delete":
                continue
            for key in found[row.table].children:
                if key.on_delete == "c" and key.child_name not in self.tables:
                    self.found.notes.append(
                        f"{key.child} is not tracked: what was deleted of it does not come back."
                    )
                value, table = key.provided(row.old), by_relation.get(key.child)
                if value is None or table is None:
                    continue
                for event in referring.get((key.name, table, value), ()):
                    changed = event.changed or {}
                    nulled = {n: v for n, v in changed.items() if n in key.child_columns}
                    if event.verb == "delete":
                        waiting.append(event)
                    elif nulled and None in nulled.values():
                        earlier = (chosen[event.id].changed if event.id in chosen else None) or {}
                        chosen[event.id] = replace(event, changed={**earlier, **nulled})
        return sorted(chosen.values(), key=lambda event: event.id)

    def _is_undoable(self, event: Event) -> bool:
        if event.verb in models.MARKS:
            if event.verb in {"gap", "suspend"}:
                self.found.add(
                    "incomplete", None, Record(*event.table), (),
                    "not everything that happened was recorded here, and only what was recorded "
                    "can be taken back", ("skip",), "nothing",
                )  # fmt: skip
            return False
        if event.verb == models.BASELINE:
            return False
        if event.table not in self.tables:
            self.found.add(
                "not_tracked", None, Record(*event.table), (),
                "no model tracks this table any more, so it stays as it is", ("skip",), "nothing",
            )  # fmt: skip
            return False
        return True

    def _tell(self, own: Sequence[Event]) -> tuple[Story, list[Guard]]:
        events = {event.id: event for event in own}
        known: dict[Table, set[str]] = {}
        wanted = keys_of(own)
        activity, first = self.activity, min(events)
        while any(wanted.values()):
            for table, keys in wanted.items():
                known.setdefault(table, set()).update(keys)
                names = self.tables[table].place.names
                for event in self._events(
                    activity.id >= first,
                    activity.table_name.in_(sorted({name for _, name in names})),
                    sa.tuple_(activity.schema_name, activity.table_name).in_(names),
                    sa.or_(activity.object_key.in_(keys), activity.new_object_key.in_(keys)),
                ):
                    events.setdefault(event.id, event)
            found = keys_of([*events.values()])
            wanted = {t: found[t] - known.get(t, set()) for t in found if t in self.tables}
        for table in known:
            names = self.tables[table].place.names
            for event in self._events(
                activity.id >= first,
                activity.object_key.is_(None),
                activity.verb == "truncate",
                sa.tuple_(activity.schema_name, activity.table_name).in_(names),
            ):
                events.setdefault(event.id, event)
        ordered = [events[id_] for id_ in sorted(events)]
        tables = shapes.read_shapes(self.connection, [self.tables[table] for table in known])
        twins = {
            table
            for table, shape in tables.items()
            if any(unique.primary and unique.constraint for unique in shape.uniques)
        }
        story = tell(ordered, {event.id for event in own}, twins)
        return story, self._guards(ordered, story.threads)

    def _guards(self, events: Sequence[Event], threads: Sequence[Thread]) -> list[Guard]:
        newest: dict[tuple[Table, str], int] = {}
        for event in events:
            for key in (event.key, event.new_key):
                if key is not None:
                    place = (event.table, key)
                    newest[place] = max(event.id, newest.get(place, event.id))
        guards = []
        for subject, thread in enumerate(threads, 1):
            ids = [newest[thread.table, k] for k in thread.keys if (thread.table, k) in newest]
            last = max(ids, default=None)
            guards.append(Guard(*thread.table, tuple(thread.keys), last, subject))
        tables = [*dict.fromkeys(thread.table for thread in threads)]
        names = [self.tables[table].place.names for table in tables]
        found = shapes.newest(self.connection, self.audit_schema, [(n, ()) for n in names])
        guards += [Guard(*t, (), id_) for t, id_ in zip(tables, found, strict=True)]
        return guards

    # -- To the plan --------------------------------------------------------------------------

    def _plan(
        self,
        title: str,
        reverts: dict[str, Any],
        threads: Sequence[Thread],
        guards: Sequence[Guard],
    ) -> Plan:
        tables = [self.tables[table] for table in {thread.table for thread in threads}]
        found = shapes.read_shapes(self.connection, tables)
        wishes = self._wishes(threads, found)
        ordered = order(wishes)
        by_subject = {wish.subject: wish for wish in wishes}
        for subjects in ordered.stuck:
            conflicts.stuck(self.found, [by_subject[subject] for subject in subjects])
        conflicts.check(self.found, self.connection, self.audit_schema, wishes)
        return Plan(
            title=title,
            made_at=datetime.now(UTC),
            reverts=reverts,
            steps=ordered.steps,
            conflicts=self.found.numbered(),
            guards=tuple(guards),
            notes=tuple(dict.fromkeys(self.found.notes)),
            deferred=ordered.deferred,
        )

    def _wishes(self, threads: Sequence[Thread], found: Mapping[Table, Shape]) -> list[Wish]:
        """Return what each thread's record is to become, in the types of today."""
        wishes: list[Wish] = []
        numbered = list(enumerate(threads, 1))
        for table in dict.fromkeys(thread.table for thread in threads):
            mine = [(number, thread) for number, thread in numbered if thread.table == table]
            shape = found.get(table)
            if shape is None or not shape.key:
                what = "does not exist any more" if shape is None else "has no primary key now"
                self.found.add(
                    "not_tracked", None, Record(*table), (), f"the table {what}", ("skip",),
                    "nothing",
                )  # fmt: skip
                continue
            lasts = [conflicts.usable(shape, thread.last).row for _, thread in mine]
            goals = [
                conflicts.usable(shape, (thread.then or {}) if thread.ended_by else thread.goals)
                for _, thread in mine
            ]
            known = shapes.canonical(self.connection, shape, lasts)
            wanted = shapes.canonical(self.connection, shape, [goal.row for goal in goals])
            keys = [dict(shape.key_of(row)) for row, _ in known]
            there = [index for index, (_, t) in enumerate(mine) if not t.ended_by and keys[index]]
            rows = shapes.read_rows(self.connection, shape, [keys[index] for index in there])
            live = dict(zip(there, rows, strict=True))
            for index, (number, thread) in enumerate(mine):
                goal = goals[index].fitting(*wanted[index])
                wish = conflicts.wish(
                    self.found, number, shape, thread, known[index][0], goal, live.get(index)
                )
                if wish is not None:
                    wishes.append(wish)
        return wishes


def _when(version: int | datetime) -> str:
    if isinstance(version, datetime):
        return f"at {version.isoformat(timespec='seconds')}"
    return f"after the change {version}"


def _too_many() -> str:
    return (
        f"More than {LIMIT} changes would have to be looked at for this plan: choose fewer, such "
        "as a shorter time."
    )
