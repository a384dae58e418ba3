"""How a plan is done: locked, looked at again, written, and linked to what it reverts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import orm

from audit_app.ddl import AuditedTable
from audit_app.errors import (
    PlanError,
    PlanFailedError,
    PlanOutdatedError,
    UnresolvedConflictsError,
)
from audit_app.install import sqlstate
from audit_app.models import find_table
from audit_app.revert import conflicts, shapes
from audit_app.revert.objects import NotHeldError, ObjectWriter, attributes, name_of
from audit_app.revert.ordering import Wish
from audit_app.revert.plan import Plan, Step, Through
from audit_app.revert.shapes import Row, Shape
from audit_app.revert.values import dump, same


class Logger(Protocol):
    """What this module needs of an AuditLogger."""

    schema_name: str

    @property
    def base(self) -> type[Any]: ...

    @property
    def metadata(self) -> sa.MetaData: ...

    @property
    def transaction_cls(self) -> Any: ...

    def audited_tables(self) -> tuple[AuditedTable, ...]: ...

    def context(self, *, reason: str | None, **metadata: Any) -> AbstractContextManager[None]: ...


def apply(logger: Logger, plan: Plan, session: Any, *, reason: str, through: Through) -> int:
    """Do what :meth:`audit_app.revert.plan.Plan.apply` says."""
    _check_call(plan, session, reason, through)
    is_session = not isinstance(session, sa.Connection)
    if is_session:
        session.flush()
        # What was loaded is not to be taken for what is there, and collections least of all.
        session.expire_all()
    work = _Work(logger, plan, session if through == "orm" else None)
    with (
        logger.context(reason=reason.strip(), reverts=plan.reverts),
        _explained(work),
        session.begin_nested(),
    ):
        # Asked for inside of the block: a session makes the savepoint when it is asked.
        id_ = work.do(connection_of(session, logger.transaction_cls))
    if is_session:
        session.expire_all()
    return id_


def connection_of(session: Any, trail: type[Any]) -> sa.Connection:
    """Return the connection to the database of the ``trail``, one of its classes.

    :param session: a ``Session``, ``db.session`` or a ``Connection``.
    """
    if isinstance(session, sa.Connection):
        return session
    found: sa.Connection = session.connection(bind_arguments={"mapper": sa.inspect(trail)})
    return found


def _check_call(plan: Plan, session: Any, reason: object, through: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise PlanError("A plan needs a reason: say why, for those who read the trail later.")
    if through not in {"orm", "sql"}:
        raise PlanError(f"through={through!r} is not known: use 'orm' or 'sql'.")
    if through == "orm" and isinstance(session, sa.Connection):
        raise PlanError("through='orm' needs a Session: pass one, or use through='sql'.")
    if plan.unresolved:
        names = ", ".join(f"{item.id} ({item.message})" for item in plan.unresolved)
        raise UnresolvedConflictsError(
            f"Some conflicts of this plan are not decided: {names}. Resolve each of them first."
        )
    if not plan.steps:
        raise PlanError("There is nothing to do in this plan.")


class _Work:
    """One application of a plan.

    :ivar at: the step that is being done, for error messages.
    """

    connection: sa.Connection

    def __init__(self, logger: Logger, plan: Plan, session: Any) -> None:
        self.logger = logger
        self.plan = plan
        self.session = session
        self.at: Step | None = None
        self.tables = {(t.schema, t.name): t for t in logger.audited_tables()}
        self.shapes: Mapping[tuple[str, str], Shape] = {}
        self.places: dict[int, str | None] = {}

    def do(self, connection: sa.Connection) -> int:
        """Lock, check, write; return the id of the trail's transaction."""
        self.connection = connection
        self.shapes = self._read_shapes()
        with shapes.stored_form(self.connection):
            live = self._lock()
            self._check_unmoved(live)
            self._check_children(live)
        with self._constraints(), self._intervals():
            for step in self.plan.steps:
                self.at = step
                self._write(step)
            self.at = None
        return self._transaction_id()

    def _shape(self, step: Step) -> Shape:
        return self.shapes[step.record.schema, step.record.table]

    def _read_shapes(self) -> Mapping[tuple[str, str], Shape]:
        places = sorted({(s.record.schema, s.record.table) for s in self.plan.steps})
        unknown = [place for place in places if place not in self.tables]
        if unknown:
            raise PlanError(f"The table {'.'.join(unknown[0])} is not tracked.")
        found = shapes.read_shapes(self.connection, [self.tables[place] for place in places])
        for step in self.plan.steps:
            place = (step.record.schema, step.record.table)
            names = {*(c.field for c in step.changes), *(name for name, _ in step.record.key)}
            writable = {c.name for c in found[place].readable} if place in found else set()
            if place not in found or not names <= writable:
                raise _outdated([f"the columns of {'.'.join(place)}"])
            if tuple(name for name, _ in step.record.key) != found[place].key:
                raise _outdated([f"the key of {'.'.join(place)}"])
        return found

    # -- Looking again ------------------------------------------------------------------------

    def _lock(self) -> dict[int, Row]:
        """Lock the rows that exist, by table and key; return them by subject."""
        live: dict[int, Row] = {}
        moved = []
        made = {step.subject for step in self.plan.steps if step.verb == "insert"}
        for place, shape in self.shapes.items():
            steps = {
                step.subject: step
                for step in self.plan.steps
                if step.subject not in made and (step.record.schema, step.record.table) == place
            }
            keys = [dict(step.record.key) for step in steps.values()]
            rows = shapes.read_rows(self.connection, shape, keys, lock=True)
            for step, row in zip(steps.values(), rows, strict=True):
                if row is None:
                    moved.append(str(step.record))
                else:
                    live[step.subject] = row
            if not moved and self._has_twins(shape):
                places = shapes.read_places(self.connection, shape, keys)
                self.places.update(zip(steps, places, strict=True))
        if moved:
            raise _outdated(moved)
        return live

    def _has_twins(self, shape: Shape) -> bool:
        """Tell whether two rows may have one key for a while."""
        deferred = set(self.plan.deferred)
        return any((unique.schema, unique.constraint) in deferred for unique in shape.uniques)

    def _check_unmoved(self, live: Mapping[int, Row]) -> None:
        moved: dict[str, None] = {}
        subjects = {step.subject for step in self.plan.steps}
        guards = [
            guard
            for guard in self.plan.guards
            if (guard.subject in subjects or guard.subject is None)
            and (guard.schema, guard.table) in self.shapes
        ]
        asked = [(self.tables[g.schema, g.table].place.names, g.keys) for g in guards]
        newest = shapes.newest(self.connection, self.logger.schema_name, asked)
        for guard, id_ in zip(guards, newest, strict=True):
            if id_ != guard.activity_id:
                key = guard.keys[-1] if guard.keys else "was truncated"
                moved[f"{guard.schema}.{guard.table} {key}"] = None
        # What was written behind the trail's back moves no activity.
        seen: set[tuple[int, str]] = set()
        for step in self.plan.steps:
            row = live.get(step.subject)
            for change in step.changes if row is not None else ():
                place = (step.subject, change.field)
                if place not in seen and not same(change.old, row[change.field]):  # type: ignore[index]
                    moved[str(step.record)] = None
                seen.add(place)
        if moved:
            raise _outdated(moved)

    def _check_children(self, live: Mapping[int, Row]) -> None:
        """Nothing is to be deleted that nobody has looked at."""
        wishes = []
        for subject, steps in self.plan.by_subject.items():
            row: Row | None = live.get(subject)
            then: Row | None = dict(row or {})
            for step in steps:
                then = None if step.verb == "delete" else {**(then or {}), **step.new_values}
            wishes.append(Wish(subject, self._shape(steps[0]), row, then))
        forced = {
            item.subject
            for item in self.plan.conflicts
            if item.kind == "child_blocks" and item.resolution == "force"
        }
        found = conflicts.blocking_children(self.connection, self.logger.schema_name, wishes)
        moved = [
            f"rows of {key.child} that refer to {wish.record}"
            for wish, key, _, _ in found
            if wish.subject not in forced
        ]
        if moved:
            raise _outdated(moved)

    # -- Writing ------------------------------------------------------------------------------

    @contextmanager
    def _constraints(self) -> Iterator[None]:
        """Defer what the plan needs deferred; have everything checked at the end of the block."""
        keys = {
            (key.schema, key.name): key.deferred
            for shape in self.shapes.values()
            for key in shape.foreign_keys
            if key.deferrable
        }
        uniques = {
            (unique.schema, unique.constraint)
            for shape in self.shapes.values()
            for unique in shape.uniques
            if unique.constraint is not None
        }
        known = {*keys, *uniques}
        if not set(self.plan.deferred) <= known:
            raise _outdated(["the constraints between the tables"])
        self._set_constraints(self.plan.deferred, "DEFERRED")
        yield
        self._set_constraints(known, "IMMEDIATE")
        self._set_constraints([name for name, deferred in keys.items() if deferred], "DEFERRED")

    def _set_constraints(self, names: Iterable[tuple[str, str | None]], mode: str) -> None:
        quoted = [f"{shapes.quote(schema)}.{shapes.quote(name or '')}" for schema, name in names]
        if quoted:
            text = f"SET CONSTRAINTS {', '.join(sorted(quoted))} {mode}"
            self.connection.execute(sa.text(text))

    @contextmanager
    def _intervals(self) -> Iterator[None]:
        """Let intervals be read in the style in which the trail writes them."""
        functions = sa.func.pg_catalog
        former = self.connection.scalar(sa.select(functions.current_setting("IntervalStyle")))
        for_transaction = True
        set_ = sa.select(functions.set_config("IntervalStyle", "postgres", for_transaction))
        self.connection.execute(set_)
        yield
        reset = sa.select(functions.set_config("IntervalStyle", former, for_transaction))
        self.connection.execute(reset)

    def _write(self, step: Step) -> None:
        shape = self._shape(step)
        mapper = self._mapper(step) if self.session is not None else None
        names = {change.field for change in step.changes}
        if mapper is None or not (step.verb == "delete" or names <= attributes(mapper).keys()):
            self._write_sql(step, shape)
            return
        try:
            written = ObjectWriter(self.session, self.connection, shape, mapper).write(step)
        except NotHeldError:
            self._write_sql(step, shape)
            self.session.expire_all()
            return
        # Python may hold less than the database: floats in JSON, intervals without months.
        changes = tuple(change for change in step.changes if change.field in written)
        if changes:
            key = {name: step.new_values.get(name, value) for name, value in step.record.key}
            rest = replace(step, verb="update", changes=changes)
            self._execute(shape, "update", rest, key, where=_differs(written))

    def _mapper(self, step: Step) -> orm.Mapper[Any] | None:
        """Return the mapper that writes this row and no other; None if SQL has to."""
        table = find_table(self.logger.metadata, step.record.schema, step.record.table)
        found = [m for m in self.logger.base.registry.mappers if table in m.tables]
        # The row of a joined inheritance is a part of an object only.
        if not found or any(len(mapper.tables) > 1 for mapper in found):
            return None
        if self._has_twins(self._shape(step)):  # which the session could not hold
            return None
        root: orm.Mapper[Any] | None = next((m for m in found if m.inherits is None), None)
        if root is None or len(found) == 1 or root.polymorphic_on is None:
            return root
        value = step.new_values.get(root.polymorphic_on.name)
        found_mapper: orm.Mapper[Any] = root.polymorphic_map.get(value, root)
        return found_mapper

    def _write_sql(self, step: Step, shape: Shape) -> None:
        key = dict(step.record.key)
        if step.verb == "insert":
            self._execute(shape, "insert", step)
            return
        place = self.places.get(step.subject)
        if place is not None and self._execute(shape, step.verb, step, key, place=place):
            return
        if self._execute(shape, step.verb, step, key):
            return
        # A foreign key may have given it its new key already, or deleted it.
        moved = {name: step.new_values.get(name, value) for name, value in key.items()}
        if step.verb == "update" and moved != key and self._execute(shape, "update", step, moved):
            return
        if step.verb == "delete" and shapes.read_rows(self.connection, shape, [key]) == [None]:
            return
        raise PlanFailedError(
            f"{name_of(step)} wrote nothing: a trigger of the table may have stopped it. Nothing "
            "of the plan was written."
        )

    def _execute(
        self,
        shape: Shape,
        verb: str,
        step: Step,
        key: Mapping[str, Any] | None = None,
        *,
        place: str | None = None,
        where: str = "",
    ) -> int:
        names = [change.field for change in step.changes]
        quoted = [shapes.quote(name) for name in names]
        values = [_value(shape, name) for name in names]
        if verb == "update":
            values = [f"{name} = {value}" for name, value in zip(quoted, values, strict=True)]
        text = shapes.statement(
            self.logger.schema_name,
            verb,
            table=shapes.escape(shape.relation),
            columns=", ".join(quoted),
            values=", ".join(values),
            definitions=shapes.definitions([(n, shape.by_name[n].type) for n in names]),
            key=shapes.definitions([(n, shape.by_name[n].type) for n in shape.key]),
            match=" AND ".join(f"t.{shapes.quote(n)} = k.{shapes.quote(n)}" for n in shape.key),
        )
        parameters = {}
        if verb != "delete":
            parameters["document"] = dump(step.new_values)
        if verb != "insert":
            parameters["key"] = dump(key)
        if where:
            text = sa.text(f"{text.text} AND {where}")
        if place is not None:
            text = sa.text(f"{text.text} AND t.ctid = CAST(:place AS pg_catalog.tid)")
            parameters["place"] = place
        return self.connection.execute(text, parameters).rowcount

    def _transaction_id(self) -> int:
        table = self.logger.transaction_cls
        functions = sa.func.pg_catalog
        found = self.connection.scalar(
            sa.select(table.id)
            .where(
                table.issued_at == functions.transaction_timestamp(),
                sa.cast(table.native_transaction_id, sa.Text)
                == sa.cast(functions.pg_current_xact_id(), sa.Text),
            )
            .order_by(table.id.desc())
            .limit(1)
        )
        if found is None:
            raise PlanFailedError(
                "What was written was not recorded: the tables of the plan are not captured here. "
                "Nothing of the plan was written; run flask audit check."
            )
        return int(found)


def _differs(names: Sequence[str]) -> str:
    """The condition that a value is not the same to the last bit."""
    here = ", ".join(f"t.{shapes.quote(name)}" for name in names)
    there = ", ".join(f"v.{shapes.quote(name)}" for name in names)
    return f"pg_catalog.record_image_ne(ROW({here}), ROW({there}))"


def _value(shape: Shape, name: str) -> str:
    column, reference = shape.by_name[name], f"v.{shapes.quote(name)}"
    # The trail shows NULL and a JSON null alike; here it can only have been the latter.
    return f"coalesce({reference}, 'null')" if column.json and column.required else reference


def _outdated(records: Iterable[str]) -> PlanOutdatedError:
    found = tuple(records)
    shown = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return PlanOutdatedError(
        f"Since this plan was made, this has changed: {shown}. Nothing was written; make the plan "
        "anew.",
        found,
    )


_HINTS = {
    "23505": "Another record has this value: change one of them.",
    "23503": "A record that this one refers to, or that refers to it, is in the way.",
    "23502": "The column needs a value now, and the former record has none.",
    "23514": "The former values break a rule that the table has now.",
    "42501": "The database role may not write to this table.",
    "40001": "Somebody else wrote at the same time: make the plan anew.",
    "40P01": "Somebody else wrote at the same time: make the plan anew.",
    "55P03": "Somebody else holds the record: try again later.",
}


@contextmanager
def _explained(work: _Work) -> Iterator[None]:
    """Say in which step the database refused, and what it said."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        diagnosis = getattr(error.orig, "diag", None)
        parts = [
            text
            for text in (
                getattr(diagnosis, "message_primary", None) or str(error.orig),
                getattr(diagnosis, "message_detail", None),
                _HINTS.get(sqlstate(error) or ""),
            )
            if text
        ]
        where = name_of(work.at) if work.at is not None else "The plan"
        raise PlanFailedError(
            f"{where} was refused, and nothing of the plan was written: {'. '.join(parts)}"
        ) from error
