"""Server time of the pages on a trail of a given size.

    python -m benchmarks.pages --activities 100000

Works on an embedded server of its own, in a temporary directory. The trail is written by the real
triggers: transactions of one to twenty rows by 50 actors on two tables. With ``--set-based`` it is
made as :mod:`benchmarks.fill` makes it, which takes minutes for thirty million changes: of one
table, by 500 actors over three years.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

import demo.server
from audit_app import AuditLogger, audit_bp
from benchmarks.fill import Size, fill
from benchmarks.progress import Progress

FILL = """
DO $do$
DECLARE
    done int := 0;
BEGIN
    INSERT INTO tag (id, name) SELECT g, 'tag ' || g FROM generate_series(1, 500) AS g;
    INSERT INTO article (id, tag_id, title, body)
    SELECT g, 1 + g % 500, 'title ' || g, repeat('lorem ipsum ', 20)
    FROM generate_series(1, 20000) AS g;
    COMMIT;
    WHILE done < {activities} - 20500 LOOP
        PERFORM set_config(
            'audit_app.context',
            json_build_object(
                'actor_id', done % 50, 'actor_label', 'Person ' || done % 50,
                'request_id', 'r' || done, 'reason', 'step ' || done
            )::text,
            true
        );
        UPDATE article SET title = 'title ' || done
        WHERE id BETWEEN 1 + (done * 7) % 19980 AND 1 + (done * 7) % 19980 + done % 19;
        UPDATE tag SET name = 'tag ' || done WHERE id = 1 + done % 500;
        done := done + done % 19 + 2;
        COMMIT;
    END LOOP;
END
$do$
"""


def make_app(url: str) -> tuple[Flask, Any]:
    """An application with two tracked tables, whose pages are open to everybody."""
    db: Any = SQLAlchemy()
    logger = AuditLogger(can_view=lambda actor: True)
    logger.init(db.Model)

    class Article(db.Model):  # type: ignore[misc]
        __versioned__: ClassVar[dict[str, Any]] = {"follow": ["tag"]}
        id = db.Column(db.Integer, primary_key=True)
        tag_id = db.Column(db.ForeignKey("tag.id"))
        tag = db.relationship("Tag")
        title = db.Column(db.Text)
        body = db.Column(db.Text)

    class Tag(db.Model):  # type: ignore[misc]
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    logger.init_app(app)
    app.register_blueprint(audit_bp)
    app.extensions["models"] = (Article, Tag)  # the registry itself keeps no strong reference
    return app, db


def measure(app: Flask, db: Any, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median and the largest server time of each page, in milliseconds."""
    with app.app_context(), db.engine.connect() as connection:
        middle = connection.scalar(sa.text("SELECT max(id) / 2 FROM audit.activity"))
        cursor_of = "SELECT issued_at FROM audit.transaction ORDER BY issued_at LIMIT 1 OFFSET 200"
        early = connection.scalar(sa.text(cursor_of))
        of_one = "SELECT min(id), max(id) FROM audit.activity WHERE object_id = '777'"
        first, last = connection.execute(sa.text(of_one + " AND table_name = 'article'")).one()
        transaction = connection.scalar(sa.text("SELECT max(id) / 2 FROM audit.transaction"))
    pages = {
        "feed": "/audit/",
        "feed, one table": "/audit/?table=tag",
        "feed, one verb": "/audit/?verb=delete",
        "feed, far back": f"/audit/?to={early:%Y-%m-%dT%H:%M}",
        "feed, by value": "/audit/?field=name&value=none",
        "feed, by reason": "/audit/?reason=nowhere",
        "feed, one record": "/audit/?record=777&table=article",
        "actor": "/audit/actors/7",
        "actor, a week": "/audit/actors/7?period=7d",
        "people": "/audit/actors/",
        "record": "/audit/records/public/article/777",
        "record alone": "/audit/records/public/article/777?only=1",
        "field of a record": "/audit/records/public/article/777?field=title",
        "record at a moment": f"/audit/records/public/article/777?at={early:%Y-%m-%dT%H:%M}",
        "version": f"/audit/versions/{last}",
        "comparison": f"/audit/compare/public/article/777?from={first}&to=now",
        "change": f"/audit/activities/{middle}",
        "transaction": f"/audit/transactions/{transaction}",
        "search": "/audit/search/?q=77",
        "search, nothing": "/audit/search/?q=none",
        "tables": "/audit/tables/",
    }
    client, found = app.test_client(), {}
    for name, path in pages.items():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            response = client.get(path)
            times.append((time.perf_counter() - start) * 1000)
            if response.status_code != 200:
                raise SystemExit(f"{path} answered {response.status_code}")
        found[name] = {"median": statistics.median(times), "worst": max(times)}
    return found


def _make(connection: Any, activities: int) -> None:
    size = Size(activities)
    progress = Progress(activities // 1_000_000 + 6)
    try:
        fill(connection, size, progress=progress)
    finally:
        progress.end()


def main() -> None:
    """Fill a trail, measure the pages, print a table or a JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activities", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--set-based", action="store_true", help="make the trail as fill does")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    settings = {
        "fsync": "off",
        "synchronous_commit": "off",
        "max_wal_size": "8GB",
        "autovacuum": "off",
    }
    app, db = make_app(demo.server.start(directory, settings))
    try:
        with app.app_context():
            db.create_all()
            driver = db.engine.raw_connection()
            driver.driver_connection.autocommit = True
            if options.set_based:
                _make(driver.driver_connection, options.activities)
            else:
                driver.cursor().execute(FILL.format(activities=options.activities))
            driver.cursor().execute("VACUUM ANALYZE")
            driver.close()
            db.engine.dispose()  # a connection in autocommit is no application's
        found = measure(app, db, options.repeats)
    finally:
        with app.app_context():
            db.engine.dispose()
        demo.server.stop(directory)
        demo.server.delete(directory)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{options.activities:,} activities, {options.repeats} requests each, milliseconds")
    for name, values in found.items():
        print(f"  {name:20} median {values['median']:6.1f}   worst {values['worst']:6.1f}")


if __name__ == "__main__":
    main()
