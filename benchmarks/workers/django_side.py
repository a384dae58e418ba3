"""The contestants on Django: its bare table, and django-pghistory in two modes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction

from benchmarks import fill
from benchmarks.workers.base import ACTOR, Worker


class DjangoWorker(Worker):
    """Django without a trail.

    Transactions are Django's ``atomic`` blocks; there is no unit of work that could hold clean
    objects.
    """

    level = ""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        tracking = ["pgtrigger", "pghistory"] if self.level else []
        settings.configure(
            BENCH_LEVEL=self.level,
            INSTALLED_APPS=[*tracking, "benchmarks.workers.shop"],
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": self.url.database,
                    "USER": self.url.username,
                    "HOST": self.host,
                }
            },
            USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        )
        django.setup()
        from benchmarks.workers.shop.models import Article

        self.article: Any = Article
        self._object: Any = None

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Say who acts."""
        return contextlib.nullcontext()

    def create(self) -> None:
        call_command("migrate", run_syncdb=True, verbosity=0)

    def run(self, statements: Sequence[str]) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def server_process(self) -> int:
        connection.ensure_connection()
        return int(connection.connection.info.backend_pid)

    def open(self, key: int) -> None:
        self._object = self.article.objects.get(pk=key)

    def change(self, value: int) -> None:
        self._object.title, self._object.n = f"title {value}", value
        with self.context(), transaction.atomic():
            self._object.save(update_fields=["title", "n"])

    def disconnect(self) -> None:
        self._object = None
        connection.close()
        connection.settings_dict["HOST"] = self.host
        connection.settings_dict["OPTIONS"] = {"options": f"-c statement_timeout={self.timeout}s"}


class PgHistory(DjangoWorker):
    """django-pghistory with row-level triggers, its default."""

    level = "Row"
    trail = ("shop_articleevent", "pghistory_context")
    actor_sql = (
        "SELECT c.metadata ->> 'user' FROM shop_articleevent AS a "
        "JOIN pghistory_context AS c ON c.id = a.pgh_context_id ORDER BY a.pgh_id DESC LIMIT 1"
    )

    def context(self) -> contextlib.AbstractContextManager[Any]:
        import pghistory

        # What its middleware for requests writes.
        found: contextlib.AbstractContextManager[Any] = pghistory.context(
            user=ACTOR, url="/articles/1"
        )
        return found

    def create(self) -> None:
        import pgtrigger

        super().create()
        pgtrigger.install()

    def load(self, trail: fill.Size) -> None:
        fill.load_event_table(self.maintenance, trail)

    def queries(self, trail: fill.Size) -> dict[str, str]:
        since, until = trail.month
        joined = (
            "FROM shop_articleevent AS a "
            "LEFT JOIN pghistory_context AS t ON t.id = a.pgh_context_id"
        )
        of_actor = (
            f"t.metadata ->> 'user' = '{trail.actor}' AND a.pgh_created_at >= '{since:%Y-%m-%d}' "
            f"AND a.pgh_created_at < '{until:%Y-%m-%d}'"
        )
        newest = "ORDER BY a.pgh_id DESC LIMIT 50"
        return {
            "record": f"SELECT a.*, t.* {joined} WHERE a.pgh_obj_id = {trail.record} {newest}",
            "actor": f"SELECT a.*, t.* {joined} WHERE {of_actor} {newest}",
            "newest": f"SELECT a.*, t.* {joined} {newest}",
            "deep": f"SELECT a.*, t.* {joined} "
            f"WHERE a.pgh_id < {trail.activities - trail.deep} {newest}",
            "count": f"SELECT count(*) {joined} WHERE {of_actor}",
        }


class PgHistoryStatement(PgHistory):
    """The same with the statement-level triggers that it recommends for bulk writes."""

    level = "Statement"


WORKERS = {
    "bare-django": DjangoWorker,
    "pghistory": PgHistory,
    "pghistory-statement": PgHistoryStatement,
}
