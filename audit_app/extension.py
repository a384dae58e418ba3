"""``AuditLogger``: the options, ``init``, ``init_app``. It wires the other modules together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy import orm

from audit_app import checks, context, follow, history, install, models, reader, retention, sql
from audit_app import labels as labelling
from audit_app.admin import theme
from audit_app.checks import Finding
from audit_app.commands import register
from audit_app.context import UNSET, ContextSource, Options
from audit_app.ddl import LOGGERS, AuditedTable, Trail, audited_table, check_trail_tables, merge
from audit_app.errors import (
    ActorClassError,
    AlreadyInitializedError,
    AuditError,
    ConfigurationError,
    InvalidOptionError,
    NotGrantedError,
    NotInitializedError,
    NotVersionedError,
)
from audit_app.formerly import Place
from audit_app.partitioning import Keeper
from audit_app.timetravel import TimeTravel, flush

_KEY = "audit_app"  # in app.extensions: the logger of the pages
_BINDS = "audit_app_binds"  # the logger of each database, by its bind key


class AuditLogger(TimeTravel):
    """The audit trail of one database: of the metadata of a declarative base.

    ::

        audit_logger = AuditLogger(can_view=lambda actor: actor is not None and actor.is_admin)
        audit_logger.init(db.Model)     # before or after the models
        audit_logger.init_app(app)      # after db.init_app(app)

    :param get_actor_id: returns the id of the acting person: an int, a str, a UUID, an object with
        an id, or None. Without it, Flask-Login's ``current_user`` is asked where it is installed.
    :param get_actor_label: returns the name to keep beside the id; it gets the actor as
        :meth:`current_actor` returns it. The trail outlives the person's own record.
    :param get_client_addr: returns the client's address. Without it, ``request.remote_addr``: put
        werkzeug's ProxyFix in front where a proxy stands.
    :param actor_cls: the mapped class of the actors, or its name; None does without one. Without
        it, ``"User"`` where there is such a model.
    :param schema_name: the schema of the trail, 63 bytes at the most.
    :param can_view: tells whether an actor may see the pages. Without it, nobody may.
    :param can_view_table: tells whether an actor may see the changes of a table: it gets the actor
        and the table as ``schema`` and ``name``, the present ones. Without it, every table.
    :param can_view_activity: tells whether an actor may see one change: it gets the actor and an
        :class:`audit_app.admin.access.Change`. Without it, every one.
    :param can_export: tells whether an actor may export what they see. Without it, everybody who
        may see the pages.
    :param labels: how the pages call tables and fields, by table (``"article"`` or
        ``"schema.article"``) and column, ``""`` for the table itself:
        ``{"article": {"": "Article", "title": "Headline"}}``. Lazy translations are welcome.
    :param can_restore: tells whether an actor may apply plans (restore, undelete, undo) on the
        pages. Without it, nobody may.
    :param partition_by: ``"month"`` or ``"week"`` partitions a new trail by the time of its rows;
        ``flask audit partition`` converts one that is there. None does without partitions.
    :param default_actor_id: who acts where nobody else is known (a job, a command).
    :param default_actor_label: the name of that actor.
    :raises ConfigurationError: if an option is wrong.
    """

    def __init__(
        self,
        *,
        get_actor_id: Callable[[], Any] | None = None,
        get_actor_label: Callable[[Any], str | None] | None = None,
        get_client_addr: Callable[[], str | None] | None = None,
        actor_cls: type[Any] | str | None = UNSET,
        schema_name: str | None = "audit",
        can_view: Callable[[Any], bool] | None = None,
        can_view_table: Callable[[Any, Any], bool] | None = None,
        can_view_activity: Callable[[Any, Any], bool] | None = None,
        can_export: Callable[[Any], bool] | None = None,
        labels: labelling.LabelMapping | None = None,
        can_restore: Callable[[Any], bool] | None = None,
        partition_by: str | None = None,
        default_actor_id: Any = None,
        default_actor_label: str | None = None,
    ) -> None:
        for name, option in (
            ("get_actor_id", get_actor_id),
            ("get_actor_label", get_actor_label),
            ("get_client_addr", get_client_addr),
            ("can_view", can_view),
            ("can_restore", can_restore),
            ("can_view_table", can_view_table),
            ("can_view_activity", can_view_activity),
            ("can_export", can_export),
        ):
            if option is not None and not callable(option):
                raise ConfigurationError(f"{name}={option!r} cannot be called: pass a function.")
        if partition_by is not None and partition_by not in models.PERIODS:
            raise ConfigurationError(
                f"partition_by={partition_by!r} is no period: use {models.PERIODS[0]!r}, "
                f"{models.PERIODS[1]!r}, or None to do without partitions."
            )
        self.partition_by = partition_by
        self.schema_name = sql.check_schema_name(schema_name or "audit")
        self.can_view = can_view
        self.can_view_table = can_view_table
        self.can_view_activity = can_view_activity
        self.can_export = can_export
        self.labels = labelling.parse(labels)
        self.can_restore = can_restore
        self._actor_cls = actor_cls
        self._base: type[Any] | None = None
        self._models: models.ModelSet | None = None
        self._registered: dict[sa.Table, tuple[str, Mapping[str, Any]]] = {}
        self._known_places: tuple[Any, Mapping[tuple[str, str], Place]] | None = None
        self._engines: WeakSet[sa.Engine] = WeakSet()
        self._source = ContextSource(
            Options(
                get_actor_id=get_actor_id,
                get_actor_label=get_actor_label,
                get_client_addr=get_client_addr,
                default_actor_id=default_actor_id,
                default_actor_label=default_actor_label,
            )
        )

    # -- Wiring -------------------------------------------------------------------------------

    def init(self, base: type[Any]) -> None:
        """Map the trail's models on ``base`` (``db.Model``), before or after its other models.

        For the database of a bind, ``base`` is an abstract class with ``__bind_key__``.

        :raises AlreadyInitializedError: on a second call.
        """
        if self._base is not None:
            raise AlreadyInitializedError(
                "This AuditLogger has its models already: call init() once, and create a second "
                "AuditLogger with another schema_name for a second base."
            )
        self._models = self._build_models(base)
        self._models.activity._place = staticmethod(self.place)
        self._base = base
        self.metadata.info.setdefault(LOGGERS, []).append(self)
        _join_alembic()
        # The first use of a model configures it, and by that tells what is wrong with it.
        sa.event.listen(self._models.transaction, "before_mapper_configured", self._relate_actor)
        sa.event.listen(base, "mapper_configured", self._check_mapper, propagate=True)
        sa.event.listen(base, "mapper_configured", self._forget_places, propagate=True)
        sa.event.listen(self._models.activity, "load", self._on_load)
        sa.event.listen(self._models.activity, "refresh", self._on_load)
        sa.event.listen(self.metadata, "before_create", self._before_create)
        sa.event.listen(self.metadata, "after_create", self._after_create)
        sa.event.listen(self.metadata, "after_drop", self._after_drop)

    def init_app(self, app: Flask) -> None:
        """Attach the trail to ``app``'s database.

        :raises NotInitializedError: before :meth:`init`.
        :raises ConfigurationError: if the database is not configured yet, another AuditLogger
            serves this database of the application, or a setting of the pages is wrong.
        :raises UnsupportedDatabaseError: if the database is not PostgreSQL.
        """
        bind_key = self.metadata.info.get("bind_key")
        theme.check(app.config)
        retention.parse(app.config.get("AUDIT_RETENTION"))
        if app.extensions.get(_BINDS, {}).get(bind_key, self) is not self:
            raise ConfigurationError(
                "Another AuditLogger is registered with this application: an application has one "
                "for each database."
            )
        if "sqlalchemy" not in app.extensions:
            raise ConfigurationError(
                "The database is not configured yet: call db.init_app(app) before "
                "audit_logger.init_app(app)."
            )
        with app.app_context():
            engines = app.extensions["sqlalchemy"].engines
            if bind_key not in engines:
                raise ConfigurationError(
                    f"The models' database (bind {bind_key!r}) is not configured: set "
                    "SQLALCHEMY_DATABASE_URI or SQLALCHEMY_BINDS."
                )
            self.attach(engines[bind_key])
            reader.check(app.config, engines, self._explain)
        app.config.setdefault("AUDIT_TIME_ZONE", "UTC")
        app.config.setdefault("AUDIT_STATEMENT_TIMEOUT", 5000)
        app.config.setdefault("AUDIT_EXPORT_LIMIT", 100_000)
        app.config.setdefault("AUDIT_EXPORT_TIMEOUT", 60_000)
        app.config.setdefault("AUDIT_CONFIRM_ROWS", 20)
        app.extensions.setdefault(_BINDS, {})[bind_key] = self
        if bind_key is None or _KEY not in app.extensions:
            app.extensions[_KEY] = self
        _join_alembic()
        register(app)
        if self.partition_by is not None:
            keep, engine = Keeper(self.schema_name), engines[bind_key]
            # Before the session has begun anything: never within the transaction of a request.
            app.before_request(lambda: keep(engine))

    def attach(self, engine: sa.Engine) -> None:
        """Make the writes through ``engine`` carry their context; for engines besides the app's.

        :raises UnsupportedDatabaseError: if it is not PostgreSQL.
        """
        install.require_postgresql(engine.dialect)
        if engine not in self._engines:
            self._engines.add(engine)
            context.attach(engine, self._source)
            sa.event.listen(engine, "handle_error", self._explain)

    # -- What there is ------------------------------------------------------------------------

    @property
    def base(self) -> type[Any]:
        """The declarative base that :meth:`init` got."""
        if self._base is None:
            raise NotInitializedError
        return self._base

    @property
    def metadata(self) -> sa.MetaData:
        metadata: sa.MetaData = self.base.metadata
        return metadata

    @property
    def activity_cls(self) -> Any:
        """The mapped class of the recorded changes (:class:`audit_app.models.ActivityMixin`)."""
        if self._models is None:
            raise NotInitializedError
        return self._models.activity

    @property
    def transaction_cls(self) -> Any:
        """The mapped class of the transactions (:class:`audit_app.models.TransactionMixin`)."""
        if self._models is None:
            raise NotInitializedError
        return self._models.transaction

    @property
    def actor_cls(self) -> type[Any] | None:
        """The mapped class of the actors; None without one.

        :raises ActorClassError: if the name that was given is not a model.
        """
        name = "User" if self._actor_cls is UNSET else self._actor_cls
        if name is None:
            return None
        found = models.resolve_actor_class(self.base, name)
        if found is None and self._actor_cls is not UNSET:
            known = sorted(m.class_.__name__ for m in self.base.registry.mappers)
            raise ActorClassError(
                f"actor_cls={name!r} is not a model of this base: import its module before the "
                f"models are first used, or use one of {', '.join(known)}, or actor_cls=None."
            )
        return found

    @property
    def session(self) -> Any:
        """The ``db.session`` of the current application."""
        return current_app.extensions["sqlalchemy"].session

    @contextmanager
    def reader(self) -> Iterator[orm.Session]:
        """Yield a session that reads where the pages read, and cannot write.

        ::

            with audit_logger.reader() as reader:
                reader.scalars(audit_logger.history(Article, 1)).all()
                audit_logger.version_at(Article, 1, when=moment, session=reader)

        That is the database of ``AUDIT_READ_BIND``; without it, and for the trail of another
        database than the pages', the one that is written to. What a replica has not replayed yet,
        and what the caller has not committed, is not seen. What is loaded is detached at the end.

        :raises ReaderAwayError: if that database does not answer, or stopped a query to go on with
            replication. The block may be repeated.
        """
        key = reader.key_of() if current_app.extensions.get(_KEY) is self else None
        bind = reader.primary_of(self) if key is None else reader.reader_of(key)
        with reader.read_only(bind) as session:
            yield session

    @property
    def trail(self) -> Trail:
        """The audit schema as a value: its tables and functions."""
        pair = self._models
        if pair is None:  # hand-written revisions may run without an application
            pair = self._build_models(orm.declarative_base())
        tables = (pair.transaction.__table__, pair.activity.__table__)
        return Trail(self.schema_name, tables, self.partition_by)

    def _build_models(self, base: type[Any]) -> models.ModelSet:
        return models.build_models(
            base, self.schema_name, is_partitioned=self.partition_by is not None
        )

    def audited_tables(self) -> tuple[AuditedTable, ...]:
        """Return what is tracked: models with ``__versioned__``, tables with
        ``info["versioned"]``, and what :meth:`audit_table` added; sorted by schema and name.

        :raises InvalidOptionError, UnknownColumnError, MissingPrimaryKeyError: for a wrong
            ``__versioned__``.
        :raises ConfigurationError: for a model of another database that has no AuditLogger.
        """
        tables = merge(
            audited_table(self.schema_name, table, options, owner=owner, aliases=aliases)
            for table, options, owner, aliases in self._declared()
        )
        check_trail_tables(self.trail.tables, tables)
        return tables

    def audited(self, target: Any) -> AuditedTable:
        """Return how ``target`` is tracked.

        :param target: a model, an instance of one, or a ``Table``.
        :raises NotVersionedError: if it is not.
        """
        table = target if isinstance(target, sa.Table) else getattr(target, "__table__", None)
        if table is not None:
            for audited in self.audited_tables():
                if (audited.explicit_schema, audited.name) == (table.schema, table.name):
                    return audited
        name = getattr(target, "__name__", None) or getattr(target, "fullname", repr(target))
        raise NotVersionedError(
            f"{name} is not tracked: give the model __versioned__ = {{}}, the Table "
            'info={"versioned": {}}, or call audit_logger.audit_table(table).'
        )

    def audit_table(self, table: Any, exclude_columns: Iterable[str] | None = None) -> None:
        """Track a table that says nothing itself: a ``Table`` without a model.

        The triggers come with ``db.create_all()`` or the next migration.

        :raises UnknownColumnError: if an excluded column does not exist.
        :raises MissingPrimaryKeyError: if the table has no primary key.
        :raises ConfigurationError: if the table is in another database.
        """
        table = getattr(table, "__table__", table)
        if not isinstance(table, sa.Table):
            raise NotVersionedError(f"{table!r} is not a Table: pass a Table or a model.")
        # A Table of a MetaData of its own may well be in this database.
        bind_key = table.metadata.info.get("bind_key", self.metadata.info.get("bind_key"))
        if bind_key != self.metadata.info.get("bind_key"):
            raise _other_database(f"The table {table.fullname!r}", bind_key)
        options = {"exclude": list(exclude_columns)} if exclude_columns is not None else {}
        audited_table(self.schema_name, table, options, owner=f"The table {table.fullname!r}")
        self._registered[table] = (f"The table {table.fullname!r}", options)

    def history(self, target: Any, identity: Any = None) -> sa.Select[Any]:
        """Return the query for a record's activities, the newest first.

        :param target: an instance; or a model or ``Table``, with the record's ``identity``.
        :raises NotVersionedError: if the table is not tracked.
        """
        audited = self.audited(target)
        if identity is None and not isinstance(target, type | sa.Table):
            identity = sa.inspect(target).identity
        return history.of_record(
            self.activity_cls, audited.schema, audited.name, identity, formerly=audited.formerly
        )

    # -- Names --------------------------------------------------------------------------------

    def place(self, schema_name: str, table_name: str) -> Place:
        """Return the table that a name in the trail, present or former, stands for today.

        :return: the names as they are where no tracked table is or was called that.
        """
        found = self._places().get((schema_name, table_name))
        return found or Place(schema_name, table_name)

    def is_tracked(self, schema_name: str, table_name: str) -> bool:
        """Tell whether the trail records a table, under its present name."""
        place = self._places().get((schema_name, table_name))
        return place is not None and (place.schema, place.name) == (schema_name, table_name)

    def related(self, schema_name: str, table_name: str) -> tuple[follow.Related, ...]:
        """Return what ``__versioned__["follow"]`` of a tracked table's models leads to."""
        found: dict[str, follow.Related] = {}
        for mapper in self.base.registry.mappers:
            table = mapper.local_table
            if not isinstance(table, sa.Table):
                continue
            if (table.schema or "public", table.name) == (schema_name, table_name):
                found.update((related.name, related) for related in self._related(mapper))
        return tuple(found[name] for name in sorted(found))

    def _related(self, mapper: orm.Mapper[Any]) -> tuple[follow.Related, ...]:
        options = getattr(mapper.class_, "__versioned__", None)
        names = options.get("follow", ()) if isinstance(options, Mapping) else ()
        if not names:
            return ()
        # Not audited_tables(): the first use of a model comes by here, and may not ask for all.
        tracked = {
            table: audited_table(self.schema_name, table, given, owner=owner, aliases=aliases)
            for table, given, owner, aliases in self._declared()
        }
        return follow.related(mapper, follow.names_of(names, mapper.class_.__name__), tracked.get)

    def former_names(
        self, schema_name: str, table_name: str
    ) -> tuple[str | None, str, dict[str, tuple[str, ...]]]:
        """Return the present schema and name of a table, and the former names of its columns."""
        place = self.place(schema_name, table_name)
        known = (schema_name, table_name) in self._places()
        schema = place.explicit_schema if known else schema_name
        return schema, place.name, dict(place.formerly.columns)

    def _places(self) -> Mapping[tuple[str, str], Place]:
        """Every name that a tracked table has or had; kept until there are other models."""
        state = (len(self.metadata.tables), len(self._registered))
        if self._known_places is None or self._known_places[0] != state:
            places = [table.place for table in self.audited_tables()]
            found = {name: place for place in places for name in place.names}
            self._known_places = (state, found)
        return self._known_places[1]

    def _forget_places(self, *_: Any) -> None:
        self._known_places = None

    def _on_load(self, activity: Any, *_: Any) -> None:
        """Show a loaded activity under the present names of its table's columns."""
        values = activity.__dict__  # what was deferred is not to be loaded for this
        if not {"schema_name", "table_name", "old_data", "changed_data"} <= values.keys():
            return
        names = self.place(values["schema_name"], values["table_name"]).formerly
        if names.columns:
            documents = names.present(values["old_data"], values["changed_data"])
            for name, document in zip(("old_data", "changed_data"), documents, strict=True):
                orm.attributes.set_committed_value(activity, name, document)

    # -- Context ------------------------------------------------------------------------------

    def context(
        self,
        *,
        actor_id: Any = UNSET,
        actor_label: str | None = UNSET,
        client_addr: str | None = UNSET,
        reason: str | None = UNSET,
        **metadata: Any,
    ) -> AbstractContextManager[None]:
        """Say who acts and why, for the writes inside of the block. Blocks nest.

        Flush or commit inside of the block: what counts is when a statement runs.

        :param metadata: kept as JSON in ``transaction.metadata``; inner blocks add to outer ones.
        """
        return self._source.override(
            metadata=metadata,
            actor_id=actor_id,
            actor_label=actor_label,
            client_addr=client_addr,
            reason=reason,
        )

    def current_actor(self) -> Any:
        """Return who acts now: Flask-Login's user, or what ``get_actor_id`` returns, or None."""
        return self._source.current_actor()

    def arm(self, connection: Any) -> None:
        """Send the context now, for writes that go around SQLAlchemy (COPY by a driver cursor).

        :param connection: a ``Connection`` or a ``Session``.
        """
        context.arm(self._connection(connection), self._source)

    @contextmanager
    def disable(self, session: Any, reason: str | None = None) -> Iterator[None]:
        """Suspend the capture inside of the block, and leave a mark of it in the trail.

        Ends with the block or the transaction, whichever comes first; nests.

        :param session: a ``Session``, ``db.session`` or a ``Connection``.
        :raises NotGrantedError: if the database role may not suspend the capture.
        :raises NotInstalledError: if the trail is not installed.
        """
        functions = getattr(sa.func, self.schema_name)
        flush(session)
        suspend = sa.select(functions.suspend(reason))
        try:
            suspension = self._connection(session).execute(suspend).scalar_one()
        except sa.exc.ProgrammingError as error:
            if install.sqlstate(error) == "42501":
                raise NotGrantedError(
                    "This database role may not suspend the capture: grant it USAGE on the schema "
                    f"{self.schema_name} and EXECUTE on its functions suspend and resume."
                ) from error
            raise
        resume = sa.select(functions.resume(suspension))
        try:
            yield
            flush(session)
        except BaseException:
            # In a failed transaction nothing can be done, and its rollback ends the suspension.
            with suppress(sa.exc.SQLAlchemyError):
                self._connection(session).execute(resume)
            raise
        self._connection(session).execute(resume)

    # -- SQL for hand-written revisions -------------------------------------------------------

    def render_tmpl(self, name: str) -> str:
        """Return the SQL of a file in ``audit_app/sql`` for this schema.

        Valid under ``op.execute(text)``, ``sa.text()`` and ``sa.schema.DDL()``.

        :raises ConfigurationError: if there is no such file.
        """
        return sql.render(name, self.schema_name)

    def operators_sql(self) -> str:
        """Return the SQL of the helper functions for values. No operator is created."""
        return self.render_tmpl("values.sql")

    def audit_table_sql(self) -> str:
        """Return the SQL of the trail's tables (IF NOT EXISTS) and of all its functions."""
        return self.trail.install_sql

    def install(self, connection: sa.Connection) -> None:
        """Install the trail, and the triggers of every tracked table that exists; repeatable.

        :raises UnsupportedDatabaseError: if the database is not PostgreSQL.
        :raises InstallationConflictError: if something that is not ours is in the way.
        """
        install.install_trail(connection, self.trail)
        install.install_tables(connection, self.audited_tables())

    def check(self, connection: sa.Connection | None = None) -> tuple[Finding, ...]:
        """Compare the installation with what is declared; see :func:`audit_app.checks.check`.

        For a health endpoint::

            ok = not audit_app.checks.has_errors(audit_logger.check())

        :param connection: without it, one of its own to the current application's database.
        :raises NotInstalledError: if the trail is not installed.
        :raises NotGrantedError: if the database role may not call the trail's functions.
        """
        if connection is None:
            engine = self.session.get_bind(mapper=sa.inspect(self.activity_cls))
            if isinstance(engine, sa.Connection):  # as savepoint-based tests bind the session
                return self.check(engine)
            with engine.connect() as own:
                return self.check(own)
        trusted = current_app.config.get("AUDIT_TRUSTED_ROLES", ()) if current_app else ()
        return checks.check(connection, self.trail, self.audited_tables(), trusted=trusted)

    # -- Listeners ----------------------------------------------------------------------------

    def _declared(
        self,
    ) -> Iterator[tuple[sa.Table, object, str, Mapping[str, str]]]:
        for mapper in sorted(self.base.registry.mappers, key=lambda m: m.class_.__name__):
            yield from self._declared_by(mapper)
        for table in self.metadata.tables.values():
            if table.info.get("versioned") is not None:
                _refuse_follow(table)
                yield table, table.info["versioned"], f"The table {table.fullname!r}", {}
        for table, (owner, options) in self._registered.items():
            yield table, options, owner, {}

    def _declared_by(
        self, mapper: orm.Mapper[Any]
    ) -> Iterator[tuple[sa.Table, object, str, Mapping[str, str]]]:
        options = getattr(mapper.class_, "__versioned__", None)
        if options is None or not isinstance(mapper.local_table, sa.Table):
            return
        owner = mapper.class_.__name__
        metadata = mapper.local_table.metadata
        if metadata is not self.metadata:
            if metadata.info.get(LOGGERS):  # it tracks the model
                return
            raise _other_database(f"{owner} has __versioned__ but", metadata.info.get("bind_key"))
        aliases = {key: column.name for key, column in mapper.columns.items()}
        yield mapper.local_table, _inherited(mapper, options), owner, aliases

    def _connection(self, target: Any) -> sa.Connection:
        """Return the connection of a ``Session`` to the database of this trail."""
        if isinstance(target, sa.Connection):
            return target
        mapper = self.activity_cls.__mapper__
        found = target.connection(bind_arguments={"mapper": mapper})
        if not isinstance(found, sa.Connection):
            raise AuditError(f"{target!r} is neither a Connection nor a Session: pass one of them.")
        return found

    def _check_mapper(self, mapper: orm.Mapper[Any], _: type[Any]) -> None:
        for table, options, owner, aliases in self._declared_by(mapper):
            audited_table(self.schema_name, table, options, owner=owner, aliases=aliases)
        self._related(mapper)

    def _relate_actor(self, *_: Any) -> None:
        actor_cls = self.actor_cls
        if actor_cls is not None:
            models.relate_actor(self.transaction_cls, actor_cls)

    def _before_create(self, target: sa.MetaData, connection: sa.Connection, **_: Any) -> None:
        install.require_postgresql(connection.dialect)
        install.install_schema(connection, self.trail)

    def _after_create(self, target: sa.MetaData, connection: sa.Connection, **_: Any) -> None:
        # create_all(tables=[…]) may have left the trail's own tables out.
        if install.is_installed(connection, self.trail):
            self.install(connection)

    def _after_drop(
        self, target: sa.MetaData, connection: sa.Connection, tables: Iterable[sa.Table], **_: Any
    ) -> None:
        if not set(self.trail.tables) - set(tables):
            connection.execute(sa.text(self.trail.drop_sql))

    def _explain(self, failure: sa.engine.ExceptionContext) -> None:
        """Say what a missing trail means, instead of "relation does not exist"."""
        error = failure.original_exception
        if install.is_missing(error, self.schema_name):
            raise install.not_installed(self.schema_name) from error


def _join_alembic() -> None:
    """Let autogeneration see the trail. Whoever uses Alembic has imported it."""
    if "alembic" in sys.modules:
        import audit_app.migrations  # noqa: F401


def get_logger(app: Flask | None = None) -> AuditLogger:
    """Return the AuditLogger of ``app``, by default of the current application.

    :raises NotRegisteredError: if there is none.
    """
    found = (app or current_app).extensions.get(_KEY)
    if not isinstance(found, AuditLogger):
        from audit_app.errors import NotRegisteredError

        raise NotRegisteredError
    return found


def _refuse_follow(table: sa.Table) -> None:
    options = table.info["versioned"]
    if isinstance(options, Mapping) and "follow" in options:
        raise InvalidOptionError(
            f"The table {table.fullname!r} has follow in info['versioned'], but relationships "
            "belong to models: write it into the __versioned__ of the model."
        )


def _inherited(mapper: orm.Mapper[Any], options: object) -> object:
    """Cut a parent's lists of columns to those of this table of a joined inheritance."""
    if mapper.inherits is None or not isinstance(options, Mapping):
        return options
    everywhere = {c.name for table in mapper.tables for c in table.c} | set(mapper.columns.keys())
    local = set(mapper.local_table.c.keys())
    found = {
        name: [c for c in value if c in local or c not in everywhere]
        if name in {"exclude", "include", "mask"} and isinstance(value, list | tuple | set)
        else value
        for name, value in options.items()
    }
    names = found.get("formerly")
    if isinstance(names, Mapping) and mapper.local_table is not mapper.inherits.local_table:
        names = dict(names)
        if mapper.class_.__dict__.get("__versioned__") is not options:
            names.pop("table", None)  # these are the parent's
        columns = names.get("columns")
        if isinstance(columns, Mapping):
            names["columns"] = {
                c: former for c, former in columns.items() if c in local or c not in everywhere
            }
        found["formerly"] = names
    return found


def _other_database(owner: str, bind_key: str | None) -> ConfigurationError:
    if bind_key is None:
        how = "call init(db.Model) of an AuditLogger of its own"
    else:
        how = (
            "call init() of an AuditLogger of its own with an abstract class, which has "
            f"__abstract__ = True and __bind_key__ = {bind_key!r}"
        )
    return ConfigurationError(
        f"{owner} lives in another database (bind {bind_key!r}), and an AuditLogger tracks the "
        f"database of its base: for that one, {how}."
    )
