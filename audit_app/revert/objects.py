"""Steps of a plan as the doings of a session, so that the events of the models happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from audit_app.errors import PlanFailedError
from audit_app.revert import shapes
from audit_app.revert.plan import Step
from audit_app.revert.shapes import Shape
from audit_app.revert.values import dump


class NotHeldError(Exception):
    """A value of the trail is none that the model can have."""


class ObjectWriter:
    """Writes one row as an object of its model, so that the events of the model happen."""

    def __init__(
        self, session: Any, connection: sa.Connection, shape: Shape, mapper: orm.Mapper[Any]
    ) -> None:
        self.session = session
        self.connection = connection
        self.shape = shape
        self.mapper = mapper
        self.attributes = attributes(mapper)

    def write(self, step: Step) -> list[str]:
        """Do the step.

        :return: the columns besides the key that still have the value that they were given: events
            may have changed others.
        :raises NotHeldError: before anything is written, if Python cannot hold a value.
        """
        if step.verb == "insert":
            return self._insert(step)
        key = dict(step.record.key)
        target = self._get(key)
        if target is None and step.verb == "update":
            target = self._get({name: step.new_values.get(name, v) for name, v in key.items()})
        if target is None and step.verb == "delete":
            return []
        if target is None:
            raise PlanFailedError(
                f"{name_of(step)} found no {self.mapper.class_.__name__}: its query may leave it "
                "out. Nothing of the plan was written; use through='sql'."
            )
        if step.verb == "delete":
            self.session.delete(target)
            self.session.flush()
            return []
        values = self._values(step.new_values)
        version = self.mapper.version_id_col
        if version is not None:  # that one only goes on
            values.pop(version.name, None)
        for name, value in values.items():
            setattr(target, self.attributes[name], value)
        return self._flush(target, values)

    def _insert(self, step: Step) -> list[str]:
        target = self.mapper.class_manager.new_instance()
        values = self._values(step.new_values)
        for name, value in values.items():
            setattr(target, self.attributes[name], value)
        self.session.add(target)
        with self._overriding():
            return self._flush(target, values)

    def _flush(self, target: Any, values: Mapping[str, Any]) -> list[str]:
        self.session.flush()
        state = sa.inspect(target).dict
        missing = object()
        written = [
            name
            for name, value in values.items()
            if state.get(self.attributes[name], missing) is value and name not in self.shape.key
        ]
        self.session.expire(target)
        return written

    def _get(self, key: Mapping[str, Any]) -> Any:
        values = self._values(key)
        identity = tuple(values[column.name] for column in self.mapper.primary_key)
        return self.session.get(self.mapper, identity, populate_existing=True)

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as the model would load them: cast by the database, read by the types."""
        types = self.mapper.local_table.c
        columns = [sa.column(name, types[name].type) for name in row]
        definitions = shapes.definitions([(n, self.shape.by_name[n].type) for n in row])
        source = sa.text(
            f"pg_catalog.json_to_record(CAST(:document AS pg_catalog.json)) AS v ({definitions})"
        )
        query = sa.select(*columns).select_from(source)
        result = self.connection.execute(query, {"document": dump(row)})
        try:
            loaded = result.one()
        except (ValueError, LookupError, ArithmeticError, sa.exc.DataError) as error:
            raise NotHeldError from error
        return {
            name: self._null(name) if row[name] is None else value
            for name, value in zip(row, loaded, strict=True)
        }

    def _null(self, name: str) -> Any:
        """None, or NULL where None would mean the default or a JSON null."""
        column, found = self.mapper.local_table.c[name], self.shape.by_name[name]
        if found.json and found.required:
            return sa.JSON.NULL
        is_plain = column.default is None and column.server_default is None
        return None if is_plain and not found.json else sa.null()

    @contextmanager
    def _overriding(self) -> Iterator[None]:
        """Let an identity be given that PostgreSQL would generate; the ORM has no word for it."""
        if not any(column.always for column in self.shape.columns):
            yield
            return

        def override(  # noqa: PLR0917
            connection: sa.Connection,
            cursor: Any,
            statement: str,
            parameters: Any,
            context: Any,
            executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
        ) -> tuple[str, Any]:
            clause = ") OVERRIDING SYSTEM VALUE VALUES ("
            return statement.replace(") VALUES (", clause, 1), parameters

        sa.event.listen(self.connection, "before_cursor_execute", override, retval=True)
        try:
            yield
        finally:
            sa.event.remove(self.connection, "before_cursor_execute", override)


def attributes(mapper: orm.Mapper[Any]) -> dict[str, str]:
    """Return the attribute of each column."""
    return {
        column.name: mapper.get_property_by_column(column).key
        for column in mapper.columns
        if isinstance(column, sa.Column)
    }


def name_of(step: Step) -> str:
    return f"The {step.verb} of {step.record}"
