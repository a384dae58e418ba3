"""Models with inheritance, versions and former names."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from tests.integration.revert.books import through
from tests.trail import Trail


@through
def test_inheritance_and_versions(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    seen: list[str] = []

    class Animal(base):  # type: ignore[misc]
        __tablename__ = "animal"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        version = sa.Column(sa.Integer, nullable=False)
        legs = sa.Column(sa.Integer)
        __mapper_args__: ClassVar[dict[str, Any]] = {
            "polymorphic_on": kind,
            "polymorphic_identity": "animal",
            "version_id_col": version,
        }

    class Dog(Animal):
        __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "dog"}

    class Vehicle(base):  # type: ignore[misc]
        __tablename__ = "vehicle"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        __mapper_args__: ClassVar[dict[str, Any]] = {
            "polymorphic_on": kind,
            "polymorphic_identity": "vehicle",
        }

    class Car(Vehicle):
        __tablename__ = "car"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.ForeignKey("vehicle.id"), primary_key=True)
        doors = sa.Column(sa.Integer)
        __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "car"}

    sa.event.listen(Dog, "before_insert", lambda m, c, target: seen.append(type(target).__name__))
    base.metadata.create_all(trail.engine)
    with orm.Session(trail.engine) as session:
        session.add_all([Dog(id=1, legs=4), Car(id=1, doors=5)])
        session.commit()
        seen.clear()
        session.delete(session.get(Dog, 1))
        session.delete(session.get(Car, 1))
        session.commit()
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = logger.plan_undo(id_, session=session)
        assert [step.record.table for step in plan.steps] == ["animal", "vehicle", "car"]
        plan.apply(session, reason="x", through=through)
        session.commit()
        assert seen == (["Dog"] if through == "orm" else [])
        dog: Any = session.get_one(Animal, 1)
        car: Any = session.get_one(Vehicle, 1)
        assert (type(dog), dog.version, type(car), car.doors) == (Dog, 1, Car, 5)
        dog.legs = 3
        session.commit()
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        logger.plan_undo(id_, session=session).apply(session, reason="x", through=through)
        session.commit()
        # Who still holds the changed dog must not be able to write it.
        assert (dog.legs, dog.version) == (4, 3 if through == "orm" else 1)


@through
def test_former_names(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = {
            "formerly": {"table": ["post"], "columns": {"title": ["headline"]}}
        }
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)

    trail.create("CREATE TABLE post (id int PRIMARY KEY, headline text)", "post")
    trail.run("INSERT INTO post VALUES (1, 'one'), (2, 'two')", "UPDATE post SET headline = 'x'")
    id_ = trail.value("SELECT max(id) FROM audit.transaction")
    trail.run("ALTER TABLE post RENAME TO article")
    trail.run("ALTER TABLE article RENAME headline TO title")
    trail.run("DELETE FROM article WHERE id = 1", "UPDATE article SET title = 'y' WHERE id = 2")
    with orm.Session(trail.engine) as session:
        plan = logger.plan_undo(id_, session=session)
        assert [(c.kind, str(c.record)) for c in plan.conflicts] == [
            ("gone", "public.article 1"),
            ("changed_since", "public.article 2"),
        ]
        plan = plan.resolve("c1", "skip").resolve("c2", "force")
        plan.apply(session, reason="x", through=through)
        logger.plan_undelete(Article, 1, session=session).apply(
            session, reason="x", through=through
        )
        version = session.scalar(sa.text("SELECT min(id) FROM audit.activity"))
        logger.plan_restore(Article, 1, version=version, session=session).apply(
            session, reason="x", through=through
        )
        found: Any = session.execute(sa.select(Article.id, Article.title).order_by("id")).all()
        assert [tuple(row) for row in found] == [(1, "one"), (2, "two")]
        session.commit()
