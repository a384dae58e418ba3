"""A database with tracked tables, and an application that declares them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from audit_app import AuditLogger
from tests.trail import Trail


@pytest.fixture
def shop(trail: Trail) -> Trail:
    """A plain table and a partitioned one, both tracked and as they should be."""
    trail.create("CREATE TABLE article (id int PRIMARY KEY, name text)", "article")
    trail.run("CREATE TABLE event (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)")
    trail.create("CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)", "event")
    return trail


@pytest.fixture
def app(shop: Trail) -> Iterator[Flask]:
    db: Any = SQLAlchemy()
    logger = AuditLogger()
    logger.init(db.Model)

    class Article(db.Model):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    class Event(db.Model):  # type: ignore[misc]
        __tablename__ = "event"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = shop.url
    db.init_app(app)
    logger.init_app(app)
    app.extensions["test_logger"] = logger
    yield app
    with app.app_context():
        db.engine.dispose()
