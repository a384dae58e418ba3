"""The pages: access, form, history, page values, template.

Written once as exposed views of a mixin; :class:`AuditIndexView` serves them on their own, under
``audit_bp``, and :class:`AuditView` inside of a host's existing ``Admin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from flask import Response, current_app, make_response, redirect, request, send_from_directory
from flask_admin import AdminIndexView, BaseView, expose

from audit_app import directory, history, selection
from audit_app.admin import asked, differences, documents, exports, forms, pages, source, theme
from audit_app.admin.access import Access, may_export
from audit_app.admin.answering import Answering
from audit_app.admin.comparing import Comparer
from audit_app.admin.describing import Describer, documents_of
from audit_app.admin.feeds import known_actors, read_feed, resolve
from audit_app.admin.i18n import gettext as _
from audit_app.admin.links import ASSETS, asset_digest
from audit_app.admin.naming import Naming
from audit_app.admin.overview import overview_of
from audit_app.admin.plan_words import Kind
from audit_app.admin.problems import Problem, problem_of
from audit_app.admin.reading import column_order, current_logger, reading
from audit_app.admin.restoring import Restoring
from audit_app.admin.search import look_up
from audit_app.admin.stories import (
    Subject,
    Visit,
    newest_change,
    no_record,
    story_page,
    version_url,
    with_field_urls,
)
from audit_app.admin.tables import read_tables, tables_page
from audit_app.admin.values import json_text
from audit_app.admin.versions import VersionPage, field_page, version_at_page, version_page
from audit_app.admin.ways import (
    Way,
    may_restore,
    reverted,
    undone_by,
    way_back,
    way_of_transaction,
)
from audit_app.errors import RecordNotFoundError
from audit_app.formerly import Place

_View = TypeVar("_View", bound=Callable[..., Any])


def _page(url: str, *methods: str) -> Callable[[_View], _View]:
    """Flask-Admin's ``expose``, with types."""
    return cast("Callable[[_View], _View]", expose(url, methods or ("GET",)))


_LARGEST_ROW = 4_000_000
"""Bytes of an activity, as stored, up to which its page shows the values."""


class AuditPages(Answering):
    """The pages of the audit trail, for a class that is a Flask-Admin view as well."""

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
        asked.check_text(after)
        with reading(logger) as session:
            access = Access.of(logger, session)
            transaction = logger.transaction_cls
            only: dict[str, Any] = {"activity": logger.activity_cls, "tables": access.tables}
            rows = session.execute(
                directory.actors(transaction, after=after, limit=limit, **only)
            ).all()
            nobody = session.execute(directory.last_of_actor(transaction, None, **only)).all()
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
        names = asked.named_record()
        return self._record(*names) if names else self._redirect(self.links.feed())

    @_page("/records/<schema>/<table>/<path:identity>")
    def record(self, schema: str, table: str, identity: str) -> Any:
        """Show a record's timeline."""
        return self._record(schema, table, identity)

    @_page("/compare/")
    def comparison(self) -> Any:
        """Compare versions of a record whose identity cannot stand in a path."""
        names = asked.named_record()
        return self._compare(*names) if names else self._redirect(self.links.feed())

    @_page("/compare/<schema>/<table>/<path:identity>")
    def compare(self, schema: str, table: str, identity: str) -> Any:
        """Show two versions of a record beside each other."""
        return self._compare(schema, table, identity)

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
        id_ = asked.known_id(activity_id)
        activity, transaction = logger.activity_cls, logger.transaction_cls
        with reading(logger) as session:
            access = Access.of(logger, session)
            query = history.activity_by_id(activity, transaction, id_, large=_LARGEST_ROW)
            rows = access.only(session, session.execute(query))
            if not rows:
                raise RecordNotFoundError(_("There is no change %(id)s in the trail.", id=id_))
            row = rows[0]
            describes = Describer(access, self.links)
            describes.look_up(
                session, [(row.schema_name, row.table_name, [row.old_data, row.changed_data])]
            )
            previous, following = access.neighbours(session, row)
        change = differences.change_of(
            row, self.links, found.zone, differences.Budget(),
            describes=describes, order=column_order(logger, row), whole=True,
            long_raw=request.args.get("raw") == "1",
        )  # fmt: skip
        return self._answer(
            "audit/activity.html",
            document=lambda: {
                **documents.with_transaction(row, documents.listed_change(row, self.links)),
                "previous": _link(self.links.activity, previous),
                "next": _link(self.links.activity, following),
            },
            change=with_field_urls(change, row, self.links),
            facts=pages.transaction_facts(row),
            version_url=version_url(row, self.links),
            compare_url=self._compare_url(row),
            way=way_back(logger, self.links, row, is_newest=following is None),
            previous_url=self.links.activity(previous) if previous is not None else "",
            next_url=self.links.activity(following) if following is not None else "",
        )

    @_page("/versions/<activity_id>")
    def version(self, activity_id: str) -> Any:
        """Show the whole row as it was after one change."""
        return self._version(
            version_page(self._visit(self._filtering()), asked.known_id(activity_id))
        )

    def _version(self, page: VersionPage) -> Any:
        way = None
        if page.row is not None:
            gone = bool(page.subject.gone)
            way = way_back(
                current_logger(), self.links, page.row,
                is_newest=not page.next_url, is_gone=gone,
            )  # fmt: skip
        return self._answer(
            "audit/version.html", document=lambda: page.document, page=page, way=way
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
        id_, limit = asked.known_id(transaction_id), history.PAGE
        after = asked.cursor_id("after")
        with reading(logger) as session:
            access = Access.of(logger, session)
            head = session.execute(history.transaction_by_id(logger.transaction_cls, id_)).first()

            def page(after: int | None) -> Any:
                return selection.of_transaction(
                    logger.activity_cls, logger.transaction_cls, id_, after=after, limit=limit,
                    filters=access.restrict(selection.Filters()),
                )  # fmt: skip

            shown, further = access.read_on(session, page, after=after, limit=limit)
            is_hidden = access.is_limited and not shown
            if is_hidden and after is not None:  # beyond the end of what may be seen
                is_hidden = not access.read_on(session, page, after=None, limit=limit)[0]
            if head is None or is_hidden:
                raise RecordNotFoundError(_("There is no transaction %(id)s in the trail.", id=id_))
            describes = Describer(access, self.links)
            describes.look_up(session, documents_of(shown))
            undone = undone_by(session, access, self.links, id_, shown)
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
            reverted=reverted(head.t_meta, self.links),
            undone=undone,
            way=way_of_transaction(logger, self.links, id_, shown),
            changes=tuple(
                differences.change_of(
                    row,
                    self.links,
                    found.zone,
                    budget,
                    describes=describes,
                    order=column_order(logger, row),
                )
                for row in shown
            ),
            first_url=self.links.transaction(id_) if after is not None else "",
            more_url=more,
        )

    @_page("/restore/<activity_id>", "GET", "POST")
    def restore(self, activity_id: str) -> Any:
        """Show what restoring a version would do, and do it."""
        return self._restoring("restore", activity_id)

    @_page("/undelete/<activity_id>", "GET", "POST")
    def undelete(self, activity_id: str) -> Any:
        """Show what bringing a deleted record back would do, and do it."""
        return self._restoring("undelete", activity_id)

    @_page("/transactions/<transaction_id>/undo", "GET", "POST")
    def undo(self, transaction_id: str) -> Any:
        """Show what undoing a transaction would do, and do it."""
        return self._restoring("undo", transaction_id)

    def _restoring(self, kind: Kind, id_: str) -> Any:
        logger, found = current_logger(), self._filtering()
        if not may_restore(logger):
            return self._answer_problem(Problem.no_restore())
        if documents.wants_json():
            return self._answer_problem(Problem.page_only())
        restoring = Restoring(logger, self.links, found.zone, kind, asked.known_id(id_))
        is_sent = request.method == "POST"
        answer = restoring.submit(request.form) if is_sent else restoring.preview()
        if isinstance(answer, int):
            source.remember_write()  # the next page shows it
            return self._guarded(make_response(redirect(self.links.transaction(answer), 303)))
        page = answer
        return self._answer("audit/plan.html", status=page.status, document=dict, page=page)

    @_page("/search/")
    def search(self) -> Any:
        """Find a record, a person or a request; the only answer is opened at once."""
        text = request.args.get("q", "")
        asked.check_text(text)
        results = look_up(current_logger(), self.links, text, self._filtering())
        if results.only_url and not documents.wants_json():
            return self._redirect(results.only_url)
        return self._answer(
            "audit/search.html",
            document=lambda: documents.results_document(results),
            results=results,
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
            parameter = asked.table_parameter(logger, schema, table)
            return self.links.feed(table=parameter) if parameter else ""

        read = read_tables(logger)
        return self._answer(
            "audit/tables.html",
            document=lambda: documents.tables_document(read, self.links),
            page=tables_page(read, self.links, found, url, Naming(logger).table),
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
        asked.check_text(actor_id)
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
        query = selection.export(logger.activity_cls, logger.transaction_cls, filters)
        return self._guarded(exports.export(logger, kind, found.query, query))

    def _export_record(self, kind: str, schema: str, table: str, key: str) -> Response:
        asked.check_text(schema, table, key)
        logger = current_logger()
        place = logger.place(schema, table)
        query = history.export_of_record(logger.activity_cls, logger.transaction_cls, place, key)
        with reading(logger) as session:
            if not newest_change(session, Access.of(logger, session), place, key):
                raise no_record(table, key)
        given = {"schema": schema, "table": table, "identity": key}
        return exports.export(logger, kind, given, query)

    @_page("/openapi.json")
    def openapi(self) -> Any:
        """Describe the answers for machines."""
        document = documents.openapi_document(self.links.feed(tz=None, format=None))
        return self._guarded(documents.answer(document))

    @_page("/assets/<path:filename>")
    def assets(self, filename: str) -> Response:
        """Serve a style sheet, script or image of ours; for everybody."""
        if filename == theme.SHEET:
            response = Response(theme.configured(), mimetype="text/css")
            digest = theme.digest()
        else:
            response = send_from_directory(ASSETS, filename)
            digest = asset_digest(filename)
        if request.args.get("v") == digest:
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
            tables=asked.known_tables(current_logger()),
            default_zone=str(current_app.config.get("AUDIT_TIME_ZONE", "UTC")),
            former_fields=asked.former_fields,
            label=Naming(current_logger()).table,
        )

    def _actor(self, actor_id: str) -> Any:
        asked.check_text(actor_id)
        other = request.args.get("actor")
        if other is not None and other.strip() != actor_id.strip():  # the form names another one
            arguments = {k: v for k, v in request.args.items() if v and k != "id"}
            return self._redirect(self.links.feed(arguments))
        found = self._filtering(actor=actor_id, unknown="")

        def url(query: Mapping[str, str], **values: str) -> str:
            others = {name: value for name, value in query.items() if name != "actor"}
            if "actor" not in query:
                return self.links.feed(others, **values)
            return self.links.actor(actor_id, others, **values)

        return self._feed(found, url, actor_id=actor_id)

    def _feed(self, found: forms.Filtering, url: Any, *, actor_id: str | None = None) -> Any:
        logger, links, overview = current_logger(), self.links, None
        feed = read_feed(logger, links, request.args, found, url, actor_id=actor_id)
        is_first = "before" not in request.args and "after" not in request.args
        if actor_id is not None and is_first and not found.errors:
            overview = overview_of(
                logger, actor_id, found, url, lambda *names: asked.table_parameter(logger, *names)
            )

        def document() -> dict[str, Any]:
            if found.errors:
                problem = problem_of(forms.InvalidFilterError()) or Problem.internal()
                return documents.problem_document(problem, found.errors)
            summary = {"summary": overview.document if overview is not None else None}
            return {**feed.document(links), **(summary if actor_id is not None else {})}

        query = {k: v for k, v in found.query.items() if actor_id is None or k != "actor"}
        return self._answer(
            "audit/feed.html",
            status=400 if found.errors else 200,
            document=document,
            page=feed.page(logger, links),
            exports=() if found.errors else self._exports(query, id=actor_id),
            overview=overview,
            is_uncounted=actor_id is not None and is_first and logger.can_view_activity is not None,
            form_url=links.feed({}) if actor_id is None else links.actor(actor_id, {}),
            form_id=actor_id if request.args.get("id") else None,
            fields=asked.known_fields(logger),
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
        asked.check_text(schema, table, key)
        found, arguments = self._filtering(), request.args.to_dict()
        place = asked.place_of(schema, table)
        if (place.schema, place.name) != (schema, table):
            return self._redirect(
                self.links.record(place.schema, place.name, key, **asked.others(arguments))
            )
        visit = self._visit(found)
        if arguments.get("at"):
            asked.check_text(arguments["at"])
            return self._version(version_at_page(visit, place, key, arguments["at"]))
        if "field" in arguments:
            asked.check_text(arguments["field"])
            field = field_page(visit, place, key, arguments["field"])
            return self._answer("audit/field.html", document=lambda: field.document, page=field)
        page = story_page(visit, place, key)
        return self._answer(
            "audit/record.html",
            document=lambda: page.document,
            exports=self._exports(schema=schema, table=table, identity=key),
            page=page,
            way=self._way_of_gone(page.subject),
        )

    def _way_of_gone(self, subject: Subject) -> Way | None:
        if not subject.gone:
            return None
        return way_back(current_logger(), self.links, subject.newest, is_newest=True, is_gone=True)

    def _visit(self, found: forms.Filtering) -> Visit:
        arguments = request.args.to_dict()
        return Visit(current_logger(), self.links, arguments, found, self._table_url)

    def _table_url(self, place: Place) -> str:
        table = asked.table_parameter(current_logger(), place.schema, place.name)
        return self.links.feed(table=table)

    def _compare_url(self, row: Any) -> str:
        key = row.new_object_key or row.object_key
        if key is None:
            return ""
        versions = {"from": row.id, "to": "now"}
        return self.links.compare(row.schema_name, row.table_name, key, **versions)

    def _compare(self, schema: str, table: str, key: str) -> Any:
        arguments = request.args.to_dict()
        asked.check_text(schema, table, key, *arguments.values())
        logger, found = current_logger(), self._filtering(**{"from": "", "to": ""})
        place = asked.place_of(schema, table)
        if (place.schema, place.name) != (schema, table):
            return self._redirect(
                self.links.compare(place.schema, place.name, key, **asked.others(arguments))
            )
        with reading(logger) as session:
            access = Access.of(logger, session)
            page = Comparer(access, self.links, found.zone, place, key)(session, arguments)
        return self._answer(
            "audit/compare.html",
            document=lambda: page.document,
            page=page,
            key=pages.key_text(key),
            record_url=self.links.record(schema, table, key),
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


def _link(url: Callable[[int], str], id_: int | None) -> dict[str, Any] | None:
    return None if id_ is None else {"id": id_, "href": url(id_)}
