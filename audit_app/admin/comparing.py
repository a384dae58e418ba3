"""Two versions of a record beside each other: any two of the trail, or the present row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final

import sqlalchemy as sa

from audit_app import diff, history, models, present
from audit_app.admin import columns, differences, pages
from audit_app.admin.access import ROUNDS, Access
from audit_app.admin.describing import Describer
from audit_app.admin.forms import verb_labels
from audit_app.admin.i18n import gettext as _
from audit_app.admin.links import Links, is_path_safe
from audit_app.admin.reading import aside, column_order
from audit_app.admin.values import json_text
from audit_app.errors import InvalidCursorError, RecordNotFoundError
from audit_app.formerly import Place

NOW: Final = "now"
"""Stands for the present row where an id stands for a version of the trail."""

_LARGEST = 4_000_000
"""Bytes of an activity, as stored, up to which its version can be compared."""


@dataclass(frozen=True)
class Version:
    """A version of a record: what an activity left behind, or what is there now.

    :ivar value: as the address has it.
    :ivar title: for a list to choose from.
    :ivar badge: None for the present row.
    :ivar url: the change that made it; empty for the present row.
    """

    value: str
    title: str
    badge: pages.Badge | None = None
    moment: pages.Moment | None = None
    actor: pages.Actor | None = None
    url: str = ""


@dataclass(frozen=True)
class Choice:
    """A form with which two versions are chosen.

    :ivar action: the address of the comparison; GET.
    :ivar hidden: what the address of a form cannot carry.
    """

    action: str
    hidden: tuple[tuple[str, str], ...]
    versions: tuple[Version, ...]
    older: str
    newer: str


@dataclass(frozen=True)
class Comparison:
    """What the page shows.

    :ivar notes: what the reader must know of the two versions.
    :ivar raw: both documents, where they are wanted.
    :ivar document: the page for machines.
    """

    older: Version
    newer: Version
    choice: Choice | None
    fields: tuple[differences.Field, ...]
    unchanged: tuple[differences.Field, ...]
    notes: tuple[str, ...]
    is_identical: bool
    raw: tuple[differences.Raw, ...]
    raw_url: str
    table_title: str
    label: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class _State:
    """A version with its document; None where the record did not exist, or it is not known."""

    version: Version
    data: Mapping[str, Any] | None
    note: str = ""
    is_known: bool = True


def now_version() -> Version:
    """Return the version that stands for the present row."""
    return Version(NOW, _("Now"))


def version_of(row: Any, links: Links, zone: tzinfo) -> Version:
    """Return the version that an activity left behind."""
    badge, moment = pages.badge_of(row.verb), pages.moment_of(row.issued_at, zone)
    actor = pages.actor_of(row.t_actor_id, row.t_actor_label, links)
    verb = verb_labels().get(row.verb, row.verb)
    title = f"{moment.date}, {moment.time} · {verb} · {pages.cut(actor.name, 40)}"
    return Version(str(row.id), title, badge, moment, actor, links.activity(row.id))


def choice_of(
    place: Place,
    key: str,
    links: Links,
    versions: Sequence[Version],
    *,
    older: str = "",
    newer: str = NOW,
    before: str | None = None,
) -> Choice | None:
    """Return the form that offers ``versions`` and the present row; None if there is no choice.

    :param versions: the newest first.
    :param older: the chosen one; by default the oldest of them.
    :param before: the page of the timeline that they are of.
    """
    if not versions:
        return None
    hidden = {"tz": links.zone or None, "before": before or None}
    if not is_path_safe(place.schema, place.name, key) or "/" in place.schema + place.name:
        hidden |= {"schema": place.schema, "table": place.name, "identity": key}
    action = links.compare(place.schema, place.name, key).partition("?")[0]
    return Choice(
        action=action,
        hidden=tuple((name, value) for name, value in hidden.items() if value is not None),
        versions=(now_version(), *versions),
        older=older or versions[-1].value,
        newer=newer,
    )


@dataclass(frozen=True)
class Comparer:
    """Reads and compares those versions of one record that the visitor may see."""

    access: Access
    links: Links
    zone: tzinfo
    place: Place
    key: str

    def __call__(self, session: Any, arguments: Mapping[str, str]) -> Comparison:
        """Compare the two versions that the address names.

        :param arguments: ``from`` and ``to``: ids of activities, or ``now``. Without ``from`` the
            oldest version that the form offers, without ``to`` the present row.
        :raises RecordNotFoundError: if one of them is no version of this record.
        """
        names = self._names(session, arguments.get("before"))
        if not names:
            raise self._unknown()
        chosen = [arguments.get("from") or names[-1].value, arguments.get("to") or NOW]
        ids = [_id(value) for value in chosen]
        is_swapped = ids[1] is not None and (ids[0] is None or ids[0] > ids[1])
        if is_swapped:
            ids = ids[::-1]
        rows = self._rows(session, [id_ for id_ in ids if id_ is not None])
        older, newer = (
            self._state_now(session) if id_ is None else self._state(rows[id_]) for id_ in ids
        )
        describes = Describer(self.access, self.links)
        fields = self._fields(session, older, newer, describes)
        choice = choice_of(
            self.place, self.key, self.links, _with(names, older.version, newer.version),
            older=older.version.value, newer=newer.version.value, before=arguments.get("before"),
        )  # fmt: skip
        notes = [_("The older version stands first.")] if is_swapped else []
        notes += [state.note for state in (older, newer) if state.note]
        wants_raw = arguments.get("raw") == "1"
        place, data = (self.place.schema, self.place.name), newer.data or older.data or {}
        changed = tuple(f for f in fields if f.kind != "unchanged")
        return Comparison(
            older=older.version,
            newer=newer.version,
            choice=choice,
            fields=changed,
            unchanged=tuple(f for f in fields if f.kind == "unchanged"),
            notes=tuple(dict.fromkeys(notes)),
            is_identical=older.is_known and newer.is_known and not changed,
            raw=tuple(_raw(state) for state in (older, newer)) if wants_raw else (),
            raw_url="" if wants_raw else self._url(older, newer, raw=1),
            table_title=describes.table(*place) or pages.full_name(*place),
            label=describes.record(*place, data) or pages.record_label(data, self.key),
            document={
                "schema_name": place[0],
                "table_name": place[1],
                "object_id": self.key,
                "from": self._document(older),
                "to": self._document(newer),
                "changed_fields": [f.name for f in changed],
                "is_identical": older.is_known and newer.is_known and not changed,
                "notices": list(dict.fromkeys(notes)),
            },
        )

    def _document(self, state: _State) -> dict[str, Any]:
        version = state.version
        if version.moment is None or version.actor is None:
            return {"id": NOW, "is_known": state.is_known, "data": state.data, "href": None}
        return {
            "id": int(version.value),
            "is_known": state.is_known,
            "data": state.data,
            "href": version.url,
        }

    def _fields(
        self, session: Any, older: _State, newer: _State, describes: Describer
    ) -> tuple[differences.Field, ...]:
        if not (older.is_known and newer.is_known):
            return ()
        schema, table = self.place.schema, self.place.name
        order = column_order(self.access.logger, _Named(schema, table))
        found = pages.sort_fields(diff.between(older.data, newer.data, unchanged=True), order)
        describes.look_up(session, [(schema, table, [older.data, newer.data])])
        states = differences.States(schema, table, older.data or {}, newer.data or {})
        budget = differences.Budget()
        return tuple(differences.field_of(change, budget, describes, states) for change in found)

    # -- Versions of the trail --------------------------------------------------------------------

    def _names(self, session: Any, before: str | None) -> list[Version]:
        start, found = None if not before else history.parse_id(before), list[Any]()
        for _round in range(ROUNDS if self.access.is_limited else 1):
            query = history.version_names(
                self.access.logger.activity_cls, self.access.logger.transaction_cls,
                self.place, self.key, before=start,
            )  # fmt: skip
            rows = session.execute(query).all()
            found += self.access.known(session, rows)
            if len(rows) < history.PAGE or len(found) >= history.PAGE:
                break
            start = rows[-1].id
        return [version_of(row, self.links, self.zone) for row in found[: history.PAGE]]

    def _rows(self, session: Any, ids: Sequence[int]) -> dict[int, Any]:
        if not ids:
            return {}
        query = history.record_versions(
            self.access.logger.activity_cls, self.access.logger.transaction_cls,
            self.place, self.key, ids=ids, large=_LARGEST,
        )  # fmt: skip
        rows = {row.id: row for row in self.access.only(session, session.execute(query))}
        if set(rows) != set(ids):
            raise self._unknown()
        return rows

    def _state(self, row: Any) -> _State:
        version = version_of(row, self.links, self.zone)
        if row.is_large or any(hasattr(d, "raw") for d in (row.old_data, row.changed_data)):
            return _State(version, None, _too_large(), is_known=False)
        if row.verb == "delete":
            return _State(version, None, _("The record was deleted: nothing is left to compare."))
        return _State(version, {**(row.old_data or {}), **(row.changed_data or {})})

    def _unknown(self) -> RecordNotFoundError:
        table, key = self.place.name, pages.cut(pages.key_text(self.key))
        return RecordNotFoundError(
            _("This is no version of %(table)s %(key)s.", table=table, key=key)
        )

    def _url(self, older: _State, newer: _State, **values: Any) -> str:
        return self.links.compare(
            self.place.schema, self.place.name, self.key,
            **{"from": older.version.value, "to": newer.version.value}, **values,
        )  # fmt: skip

    # -- The present row --------------------------------------------------------------------------

    def _state_now(self, session: Any) -> _State:
        """Return the present row; where there is none to read, the last known state."""
        query = history.version_names(
            self.access.logger.activity_cls, self.access.logger.transaction_cls,
            self.place, self.key, limit=1,
        )  # fmt: skip
        really_newest = session.execute(query).first()
        if really_newest is None:
            raise self._unknown()
        id_ = really_newest.id
        if self.access.is_limited:
            names = self._names(session, None)
            if not names:
                raise self._unknown()
            id_ = int(names[0].value)
        newest = self._rows(session, [id_])[id_]
        last = self._state(newest)
        known = {**(newest.old_data or {}), **(newest.changed_data or {})}
        if not last.is_known:
            return dataclasses.replace(last, version=now_version())
        try:
            if really_newest.id != id_:  # what is there now came from a change that is hidden
                raise sa.exc.NoSuchTableError(self.place.name)
            with aside(session):
                row = self._present_row(session, newest.new_object_key or newest.object_key, known)
            if row is not None and not self.access.sees_row(newest, row):
                raise sa.exc.NoSuchTableError(self.place.name)
        except sa.exc.SQLAlchemyError:
            row = None
            note = _("The present row could not be read: its last known state stands here.")
        else:
            note = _("The record does not exist any more: its last known state stands here.")
        if row is not None:
            if any(isinstance(value, models.Undecoded) for value in row.values()):
                return _State(now_version(), None, _too_large(), is_known=False)
            return _State(now_version(), row)
        return _State(now_version(), known, note)

    def _present_row(
        self, session: Any, key: str, known: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return what the trail would record of the row that is there now.

        :param known: its last known state, which stands for what is never recorded as it is.
        :return: None if there is no such row.
        :raises SQLAlchemyError: if it cannot be read.
        """
        table = models.find_table(
            self.access.logger.base.metadata, self.place.schema, self.place.name
        )
        audited = Describer(self.access, self.links).tracked(self.place.schema, self.place.name)
        if table is None or audited is None:
            raise sa.exc.NoSuchTableError(self.place.name)
        wanted = columns.key_values(key, table.primary_key.columns)
        if wanted is None:
            raise sa.exc.NoSuchTableError(self.place.name)
        options = audited.options
        keys = {column.name for column in table.primary_key.columns}
        session.execute(present.settings())
        found = [
            column
            for column in session.execute(present.columns(self.place.schema, self.place.name))
            if column.name not in options.exclude
            and (options.include is None or column.name in {*options.include, *keys})
        ]
        readable = [
            column
            for column in found
            if column.form != "unknown" and column.name not in options.mask
        ]
        row = session.execute(present.row(self.place.schema, table, wanted, readable)).first()
        if row is None:
            return None
        if row.is_large:
            raise sa.exc.DataError("too large", None, Exception())
        data = {}
        for number, column in enumerate(readable):
            text = row._mapping[f"c_{number}"]
            data[column.name] = None if text is None else models.decode(text)
        # Masked values, and those of types that cannot be read here without calling foreign code.
        return data | {
            c.name: known[c.name] for c in found if c.name not in data and c.name in known
        }


@dataclass(frozen=True)
class _Named:
    schema_name: str
    table_name: str


def _too_large() -> str:
    return _("A version is too large, or nested too deeply, to be compared: look at its change.")


def _id(value: str) -> int | None:
    if value == NOW:
        return None
    try:
        return history.parse_id(value)
    except InvalidCursorError as error:
        raise RecordNotFoundError(
            _("“%(id)s” is no id of the trail.", id=pages.cut(value, 60))
        ) from error


def _with(names: Sequence[Version], *chosen: Version) -> list[Version]:
    """The offered versions and the chosen ones, the newest first."""
    found = {v.value: v for v in (*names, *chosen) if v.value != NOW}
    return sorted(found.values(), key=lambda v: int(v.value), reverse=True)


def _raw(state: _State) -> differences.Raw:
    return differences.Raw(state.version.title, json_text(state.data), is_open=True)
