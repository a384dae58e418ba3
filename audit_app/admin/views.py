"""The pages: access, form, history, page values, template.

Written once as exposed views of a mixin; :class:`AuditIndexView` serves them on their own, under
``audit_bp``, and :class:`AuditView` inside of a host's existing ``Admin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

from flask import Response, current_app, make_response, redirect, request, send_from_directory
from flask_admin import AdminIndexView, BaseView, expose
from jinja2 import ChoiceLoader, PackageLoader
from werkzeug.exceptions import HTTPException

from audit_app import history
from audit_app.admin import differences, documents, exports, forms, pages
from audit_app.admin.access import ROUNDS, Access, may_export
from audit_app.admin.feeds import known_actors, read_feed, resolve
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext
from audit_app.admin.links import ASSETS, Links, asset_digest
from audit_app.admin.problems import Problem, problem_of
from audit_app.admin.reading import Logger, column_order, current_logger, reading
from audit_app.admin.tables import read_tables, tables_page
from audit_app.admin.values import json_text
from audit_app.errors import InvalidCursorError, NotRegisteredError, RecordNotFoundError

_View = TypeVar("_View", bound=Callable[..., Any])


def _page(url: str) -> Callable[[_View], _View]:
    """Flask-Admin's ``expose``, with types."""
    return cast("Callable[[_View], _View]", expose(url))


_OPEN_VIEWS = frozenset({"assets"})

_LARGEST_ROW = 4_000_000
"""Bytes of an activity, as stored, up to which its page shows the values."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class AuditPages:
    """The pages of the audit trail, for a class that is a Flask-Admin view as well."""

    layout: ClassVar[str] = "audit/standalone.html"
    """The template that surrounds the pages."""

    stands_alone: ClassVar[bool] = True
    """Whether the whole page is ours, and with it the content security policy."""

    endpoint: str
    blueprint: Any
    url: str | None
    _template_args: dict[str, Any]
    _urls: list[Any]
    _get_view_url: Callable[[Any, str | None], str]

    # -- Access and answers ---------------------------------------------------------------------

    def is_accessible(self) -> bool:
        """Tell whether the visitor may see the trail: ``AuditLogger(can_view=…)`` decides."""
        try:
            logger = current_logger()
        except NotRegisteredError:
            return False
        return logger.can_view is not None and bool(logger.can_view(logger.current_actor()))

    def inaccessible_callback(self, name: str, **kwargs: Any) -> Any:
        """Answer a visitor without access."""
        return self._answer_problem(Problem.closed(current_logger()))

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if name in _OPEN_VIEWS:
            return None
        try:
            current_logger()
        except NotRegisteredError as error:
            return self._answer_problem(problem_of(error))
        return None if self.is_accessible() else self.inaccessible_callback(name, **kwargs)

    def _run_view(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Flask-Admin calls a view that raised a TypeError a second time, with other arguments.
        try:
            documents.check_format()
            return fn(self, *args, **kwargs)
        except HTTPException:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            return self._answer_problem(problem)

    def _answer_problem(self, problem: Problem | None) -> Response:
        problem = problem or Problem.internal()
        return self._answer(
            "audit/problem.html",
            status=problem.status,
            document=lambda: documents.problem_document(problem),
            problem=problem,
        )

    def _answer(
        self,
        template: str,
        *,
        document: Callable[[], Mapping[str, Any]],
        status: int = 200,
        **values: Any,
    ) -> Response:
        """Answer with a page, or with the document where JSON is asked for."""
        if documents.wants_json():
            mimetype = documents.PROBLEM if status >= 400 else "application/json"
            return self._guarded(documents.answer(document(), status, mimetype))
        # What Flask-Admin offers to templates fails where flask-babel is not initialised.
        self._template_args.update(_gettext=_, _ngettext=ngettext)
        html = self.render(  # type: ignore[attr-defined]
            template, audit_layout=self.layout, audit_links=self.links, t=_, **values
        )
        return self._guarded(make_response(html, status))

    def _guarded(self, response: Response) -> Response:
        response.vary.add("Accept")
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if self.stands_alone:
            response.headers.setdefault("Content-Security-Policy", _POLICY)
        return response

    def create_blueprint(self, admin: Any) -> Any:
        """Create the blueprint, and let it find our templates wherever it is mounted."""
        if self._get_view_url(admin, self.url) == "/":
            # At the root of the site, other addresses are the host's.
            self._urls = [url for url in self._urls if url[1] != "elsewhere"]
        blueprint = super().create_blueprint(admin)  # type: ignore[misc]
        blueprint.jinja_loader = ChoiceLoader([PackageLoader("audit_app"), blueprint.jinja_loader])
        return blueprint

    @property
    def links(self) -> Links:
        """The addresses of the pages of this view."""
        answer = "json" if documents.wants_json() else None
        return Links(self.endpoint, zone=request.args.get("tz"), answer=answer)

    # -- Pages ------------------------------------------------------------------------------------

    @_page("/")
    def index(self) -> Any:
        """Show the feed: by day, by transaction, by row."""
        return self._feed(self._filtering(), self.links.feed)

    @_page("/activities.json")
    def feed_json(self) -> Any:
        """Show the feed to a machine."""
        return self._feed(self._filtering(), self.links.feed)

    @_page("/actors/")
    def actors(self) -> Any:
        """Show who was active."""
        return self._actors()

    @_page("/actors.json")
    def actors_json(self) -> Any:
        """Show who was active to a machine."""
        return self._actors()

    def _actors(self) -> Any:
        if request.args.get("id"):
            return self._actor(request.args["id"])
        logger, found, limit = current_logger(), self._filtering(), 200
        after = request.args.get("after")
        _check_text(after)
        with reading(logger) as session:
            access = Access.of(logger, session)
            transaction = logger.transaction_cls
            only: dict[str, Any] = {"activity": logger.activity_cls, "tables": access.tables}
            rows = session.execute(
                history.actors(transaction, after=after, limit=limit, **only)
            ).all()
            nobody = session.execute(history.last_of_actor(transaction, None, **only)).all()
            known = known_actors(session, access, rows[:limit])
            unknown = known_actors(session, access, [] if after else nobody)
        last = rows[limit - 1].actor_id if len(rows) > limit else None
        more = self.links.actors(after=last) if last is not None else ""
        people = [*sorted(known, key=lambda found: found[1], reverse=True), *unknown]
        return self._answer(
            "audit/actors.html",
            document=lambda: {
                "actors": [
                    {
                        "id": row.actor_id,
                        "label": row.actor_label,
                        "last_change": documents.moment_text(moment),
                        "href": self.links.actor(row.actor_id),
                    }
                    for row, moment in people
                ],
                "next": documents.place_document(more, last) if last is not None else None,
            },
            people=tuple(
                (
                    pages.actor_of(row.actor_id, row.actor_label, self.links),
                    pages.moment_of(moment, found.zone),
                )
                for row, moment in people
            ),
            more_url=more,
            zone=found.zone_name,
        )

    @_page("/actors/<path:actor_id>")
    def actor(self, actor_id: str) -> Any:
        """Show what one actor did."""
        return self._actor(actor_id)

    @_page("/records/")
    def records(self) -> Any:
        """Show a record whose identity cannot stand in a path; without one, ask for it."""
        names = [request.args.get(name, "") for name in ("schema", "table", "identity")]
        if not all(name in request.args for name in ("schema", "table", "identity")):
            return redirect(self.links.feed())
        return self._record(*names)

    @_page("/records/<schema>/<table>/<path:identity>")
    def record(self, schema: str, table: str, identity: str) -> Any:
        """Show a record's timeline."""
        return self._record(schema, table, identity)

    @_page("/activities/<activity_id>")
    def activity(self, activity_id: str) -> Any:
        """Show one change."""
        return self._activity(activity_id)

    @_page("/activities/<activity_id>.json")
    def activity_json(self, activity_id: str) -> Any:
        """Show one change to a machine."""
        return self._activity(activity_id)

    def _activity(self, activity_id: str) -> Any:
        logger, found = current_logger(), self._filtering()
        id_ = _known_id(activity_id)
        activity, transaction = logger.activity_cls, logger.transaction_cls
        with reading(logger) as session:
            access = Access(logger, logger.current_actor())
            query = history.activity_by_id(activity, transaction, id_, large=_LARGEST_ROW)
            rows = access.only(session, session.execute(query))
            if not rows:
                raise RecordNotFoundError(_("There is no change %(id)s in the trail.", id=id_))
            row = rows[0]
            previous, following = _neighbours(session, access, row)
        change = differences.change_of(
            row, self.links, found.zone, differences.Budget(),
            order=column_order(logger, row), whole=True,
        )  # fmt: skip
        return self._answer(
            "audit/activity.html",
            document=lambda: {
                **documents.with_transaction(row, documents.listed_change(row, self.links)),
                "previous": _link(self.links.activity, previous),
                "next": _link(self.links.activity, following),
            },
            change=change,
            facts=pages.transaction_facts(row),
            previous_url=self.links.activity(previous) if previous else "",
            next_url=self.links.activity(following) if following else "",
        )

    @_page("/transactions/<transaction_id>")
    def transaction(self, transaction_id: str) -> Any:
        """Show everything that one transaction changed."""
        return self._transaction(transaction_id)

    @_page("/transactions/<transaction_id>.json")
    def transaction_json(self, transaction_id: str) -> Any:
        """Show everything that one transaction changed to a machine."""
        return self._transaction(transaction_id)

    def _transaction(self, transaction_id: str) -> Any:
        logger, found = current_logger(), self._filtering()
        id_, limit = _known_id(transaction_id), history.PAGE
        after = _cursor_id("after")
        with reading(logger) as session:
            access = Access.of(logger, session)
            head = session.execute(history.transaction_by_id(logger.transaction_cls, id_)).first()

            def page(after: int | None) -> Any:
                return history.of_transaction(
                    logger.activity_cls, logger.transaction_cls, id_, after=after, limit=limit,
                    filters=access.restrict(history.Filters()),
                )  # fmt: skip

            shown, further = access.read_on(session, page, after=after, limit=limit)
            is_hidden = access.is_limited and not shown
            if is_hidden and after is not None:  # beyond the end of what may be seen
                is_hidden = not access.read_on(session, page, after=None, limit=limit)[0]
            if head is None or is_hidden:
                raise RecordNotFoundError(_("There is no transaction %(id)s in the trail.", id=id_))
        budget = differences.Budget()
        more = self.links.transaction(id_, after=further) if further is not None else ""
        return self._answer(
            "audit/transaction.html",
            document=lambda: {
                **documents.transaction_document(head),
                "activities": [documents.listed_change(row, self.links) for row in shown],
                "next": documents.place_document(more, further) if further is not None else None,
            },
            id=id_,
            actor=pages.actor_of(head.t_actor_id, head.t_actor_label, self.links),
            moment=pages.moment_of(head.t_issued_at, found.zone),
            reason=head.t_reason or "",
            facts=pages.transaction_facts(head),
            meta=json_text(head.t_meta) if head.t_meta else "",
            changes=tuple(
                differences.change_of(
                    row, self.links, found.zone, budget, order=column_order(logger, row)
                )
                for row in shown
            ),
            first_url=self.links.transaction(id_) if after is not None else "",
            more_url=more,
        )

    @_page("/tables/")
    def tables(self) -> Any:
        """Show what is tracked, and whether it is as it should be."""
        return self._tables()

    @_page("/tables.json")
    def tables_json(self) -> Any:
        """Show what is tracked to a machine."""
        return self._tables()

    def _tables(self) -> Any:
        logger, found = current_logger(), self._filtering()

        def url(schema: str, table: str) -> str:
            parameter = _table_parameter(logger, schema, table)
            return self.links.feed(table=parameter) if parameter else ""

        read = read_tables(logger)
        return self._answer(
            "audit/tables.html",
            document=lambda: documents.tables_document(read, self.links),
            page=tables_page(read, self.links, found, url),
        )

    @_page("/export.<any(csv, json, ndjson):kind>")
    def export(self, kind: str) -> Any:
        """Export what the filter shows, or a record's story."""
        logger, links = current_logger(), self.links
        if not may_export(logger):
            return self._answer_problem(Problem.no_export())
        if "identity" in request.args:
            names = [request.args.get(name, "") for name in ("schema", "table", "identity")]
            return self._guarded(self._export_record(kind, *names))
        actor_id = request.args.get("id") or None
        _check_text(actor_id)
        fixed = {"actor": actor_id, "unknown": ""} if actor_id is not None else {}
        found = self._filtering(**fixed)
        if found.errors:
            raise forms.InvalidFilterError(" ".join(found.errors.values()))
        with reading(logger) as session:
            access = Access.of(logger, session)
            filters, _person, several = resolve(session, access, found, links, actor_id=actor_id)
        if several:
            raise forms.InvalidFilterError(
                _("Several people are called “%(name)s”: choose one of them first.",
                  name=pages.cut(filters.actor_id or ""))
            )  # fmt: skip
        query = history.export(logger.activity_cls, logger.transaction_cls, filters)
        return self._guarded(exports.export(logger, kind, found.query, query))

    def _export_record(self, kind: str, schema: str, table: str, key: str) -> Response:
        _check_text(schema, table, key)
        logger = current_logger()
        place, access = logger.place(schema, table), Access(logger, logger.current_actor())
        query = history.export_of_record(logger.activity_cls, logger.transaction_cls, place, key)
        with reading(logger) as session:
            if not access.sees_table(schema, table) or not self._newest(session, place, key):
                raise _no_record(table, key)
        given = {"schema": schema, "table": table, "identity": key}
        return exports.export(logger, kind, given, query)

    def _newest(self, session: Any, place: Any, key: str) -> Any:
        """A record's newest change that may be seen; None without one."""
        logger = current_logger()
        access = Access(logger, logger.current_actor())
        limit = history.PAGE if access.by_row else 1

        def page(before: int | None) -> Any:
            return history.record_page(
                logger.activity_cls, logger.transaction_cls, place.schema, place.name, key,
                before=before, limit=limit, formerly=place.formerly,
            )  # fmt: skip

        rows, _rest = access.read_on(session, page, after=None, limit=limit)
        return rows[0] if rows else None

    @_page("/openapi.json")
    def openapi(self) -> Any:
        """Describe the answers for machines."""
        document = documents.openapi_document(self.links.feed(tz=None, format=None))
        return self._guarded(documents.answer(document))

    @_page("/assets/<path:filename>")
    def assets(self, filename: str) -> Response:
        """Serve a style sheet, script or image of ours; for everybody."""
        response = send_from_directory(ASSETS, filename)
        if request.args.get("v") == asset_digest(filename):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @_page("/<path:path>")
    def elsewhere(self, path: str) -> Any:
        """Answer an address that is none of ours; only to those who may know."""
        raise RecordNotFoundError(_("There is no such page."))

    # -- What pages share -------------------------------------------------------------------------

    def _filtering(self, **fixed: str) -> forms.Filtering:
        return forms.filtering(
            {**request.args.to_dict(), **fixed},
            tables=_known_tables(current_logger()),
            default_zone=str(current_app.config.get("AUDIT_TIME_ZONE", "UTC")),
        )

    def _actor(self, actor_id: str) -> Any:
        _check_text(actor_id)
        found = self._filtering(actor=actor_id, unknown="")

        def url(query: Mapping[str, str], **values: str) -> str:
            others = {name: value for name, value in query.items() if name != "actor"}
            if "actor" not in query:
                return self.links.feed(others, **values)
            return self.links.actor(actor_id, others, **values)

        return self._feed(found, url, actor_id=actor_id)

    def _feed(self, found: forms.Filtering, url: Any, *, actor_id: str | None = None) -> Any:
        logger, links = current_logger(), self.links
        feed = read_feed(logger, links, request.args, found, url, actor_id=actor_id)

        def document() -> dict[str, Any]:
            if found.errors:
                problem = problem_of(forms.InvalidFilterError()) or Problem.internal()
                return documents.problem_document(problem, found.errors)
            return feed.document(links)

        query = {k: v for k, v in found.query.items() if actor_id is None or k != "actor"}
        return self._answer(
            "audit/feed.html",
            status=400 if found.errors else 200,
            document=document,
            page=feed.page(logger, links),
            exports=() if found.errors else self._exports(query, id=actor_id),
        )

    def _exports(
        self, query: Mapping[str, str] | None = None, **values: str | None
    ) -> tuple[tuple[str, str], ...]:
        """Names and addresses of the exports that the visitor may make."""
        if not may_export(current_logger()):
            return ()
        return tuple(
            (kind.upper(), self.links.export(kind, query, **values)) for kind in exports.KINDS
        )

    def _record(self, schema: str, table: str, key: str) -> Any:
        _check_text(schema, table, key)
        logger, found, limit = current_logger(), self._filtering(), history.PAGE
        before = _cursor_id("before")
        place = logger.place(schema, table)
        access = Access(logger, logger.current_actor())
        if not access.sees_table(place.schema, place.name):
            raise _no_record(table, key)
        if (place.schema, place.name) != (schema, table):
            arguments = request.args.to_dict()
            others = {
                k: v for k, v in arguments.items() if k not in {"schema", "table", "identity"}
            }
            url = self.links.record(place.schema, place.name, key, **others)
            return self._guarded(make_response(redirect(url)))
        activity, transaction = logger.activity_cls, logger.transaction_cls

        def page(start: int | None) -> Any:
            return history.record_page(
                activity, transaction, schema, table, key, before=start, limit=limit,
                formerly=place.formerly,
            )  # fmt: skip

        with reading(logger) as session:
            shown, further = access.read_on(session, page, after=before, limit=limit)
            newest = self._newest(session, place, key)
        if newest is None:
            raise _no_record(table, key)
        order, budget = column_order(logger, newest), differences.Budget()
        more = self.links.record(schema, table, key, before=further) if further is not None else ""
        latest = pages.record_of(newest, self.links)
        return self._answer(
            "audit/record.html",
            document=lambda: {
                "schema_name": schema,
                "table_name": table,
                "object_id": key,
                "is_deleted": newest.verb == "delete",
                "activities": [
                    documents.with_transaction(row, documents.listed_change(row, self.links))
                    for row in shown
                ],
                "next": documents.place_document(more, further) if further is not None else None,
            },
            exports=self._exports(schema=schema, table=table, identity=key),
            schema=schema,
            table=table,
            table_title=table if schema == "public" else f"{schema}.{table}",
            table_url=self.links.feed(table=_table_parameter(logger, schema, table)),
            key=pages.key_text(key),
            list_key=pages.cut(pages.key_text(key)),
            latest=latest,
            is_deleted=newest.verb == "delete",
            is_renamed=latest is not None and latest.key != pages.cut(pages.key_text(key)),
            changes=tuple(
                differences.change_of(row, self.links, found.zone, budget, order=order)
                for row in shown
            ),
            is_last_page=further is None,
            first_url=self.links.record(schema, table, key) if before is not None else "",
            more_url=more,
        )


class AuditIndexView(AuditPages, AdminIndexView):  # type: ignore[misc]
    """The pages on their own, as the index of an ``Admin`` that has nothing else."""

    def __init__(self, *, endpoint: str, url: str, name: str = "Audit trail") -> None:
        super().__init__(name=name, endpoint=endpoint, url=url)


class AuditView(AuditPages, BaseView):  # type: ignore[misc]
    """The pages inside of a host's ``Admin``, with its menu and its look.

    ::

        admin.add_view(AuditView(name="Audit trail"))

    The menu entry is there for those who may see the trail. To ask more than ``can_view`` asks,
    derive a class and extend ``is_accessible()``.
    """

    layout = "audit/embedded.html"
    stands_alone = False

    def __init__(
        self,
        name: str | None = "Audit trail",
        *,
        endpoint: str = "audit_trail",
        url: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, endpoint=endpoint, url=url or "audit", **options)


def _known_tables(logger: Logger) -> list[tuple[str, str]]:
    """Tables to choose from in the filters: those that the code tracks and the visitor may see."""
    access = Access(logger, logger.current_actor())
    return [
        (table.schema, table.name)
        for table in logger.audited_tables()
        if access.sees_table(table.schema, table.name)
    ]


def _neighbours(session: Any, access: Access, row: Any) -> tuple[int | None, int | None]:
    """The ids of the record's previous and next change that the visitor may see."""
    if row.object_key is None:
        return None, None
    activity, transaction = access.logger.activity_cls, access.logger.transaction_cls
    place = access.logger.place(row.schema_name, row.table_name)

    def around(id_: int) -> Any:
        query = history.neighbours(
            activity, place.schema, place.name, row.object_key, id_, formerly=place.formerly
        )
        return session.execute(query).one()

    def sees(id_: int) -> bool:
        query = history.activity_by_id(activity, transaction, id_, large=history.LARGE)
        return bool(access.only(session, session.execute(query)))

    first = around(row.id)
    found = {"previous": first.previous, "next": first.next}
    if access.by_row:
        for way, id_ in found.items():
            for _round in range(ROUNDS):
                if id_ is None or sees(id_):
                    break
                id_ = getattr(around(id_), way)  # noqa: PLW2901
            else:
                id_ = None  # noqa: PLW2901
            found[way] = id_
    return found["previous"], found["next"]


def _no_record(table: str, key: str) -> RecordNotFoundError:
    """The same for a record that is not there and for one that may not be seen."""
    return RecordNotFoundError(
        _("The trail holds no change of %(table)s %(key)s.", table=table, key=pages.key_text(key))
    )


def _link(url: Callable[[int], str], id_: int | None) -> dict[str, Any] | None:
    return None if id_ is None else {"id": id_, "href": url(id_)}


def _table_parameter(logger: Logger, schema: str, table: str) -> str | None:
    known = _known_tables(logger)
    if (schema, table) not in known:
        return None
    return table if [name for _s, name in known].count(table) == 1 else f"{schema}.{table}"


def _known_id(text: str) -> int:
    try:
        return history.parse_id(text)
    except InvalidCursorError as error:
        raise RecordNotFoundError(_("“%(id)s” is no id of the trail.", id=text[:60])) from error


def _cursor_id(name: str) -> int | None:
    text = request.args.get(name)
    return None if text is None else history.parse_id(text)


def _check_text(*texts: str | None) -> None:
    """Refuse what PostgreSQL's text cannot hold, so that no such record can exist."""
    if any(text is not None and "\x00" in text for text in texts):
        raise RecordNotFoundError
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError as error:
        raise RecordNotFoundError from error
