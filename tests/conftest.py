"""Fixtures for every layer of tests. All of them run on a real PostgreSQL."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partialmethod
from types import CodeType
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache

from audit_app import AuditLogger
from tests import server as servers

PARTITION_BY = os.environ.get("AUDIT_TEST_PARTITION_BY")
if PARTITION_BY:
    # Before the first logger is made: every test's trail is partitioned then.
    made: Any = partialmethod(AuditLogger.__init__, partition_by=PARTITION_BY)
    AuditLogger.__init__ = made  # type: ignore[method-assign]

from tests.trail import Trail, install  # noqa: E402


class CompiledTemplates(BytecodeCache):
    """Jinja's templates, compiled once for all applications of the process."""

    def __init__(self) -> None:
        self._code: dict[tuple[object, ...], CodeType] = {}

    @staticmethod
    def _key(bucket: Bucket) -> tuple[object, ...]:
        return (bucket.key, bucket.checksum, *sorted(bucket.environment.extensions))

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._code.get(self._key(bucket))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._code[self._key(bucket)] = bucket.code


# Compiling the templates of a page takes ten times as long as showing it.
Flask.jinja_options = {"bytecode_cache": CompiledTemplates()}


def pytest_collection_finish() -> None:
    """Spare the collector what stays: the modules, which it would look through all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def server(testrun_uid: str, worker_id: str) -> Iterator[servers.Server]:
    """The server that all workers of this run share."""
    with servers.running(testrun_uid, worker_id) as running:
        yield running


@pytest.fixture
def database_url(server: servers.Server) -> Iterator[str]:
    """The URL of a new, empty database."""
    with server.database() as url:
        yield url


@pytest.fixture(scope="session")
def trail_template(server: servers.Server) -> str:
    """The name of a database to clone, in which the trail is installed and nothing else."""

    def prepare(url: str) -> None:
        engine = sa.create_engine(url)
        install(engine)
        engine.dispose()

    return server.template(install, prepare)


@pytest.fixture
def trail_url(server: servers.Server, trail_template: str) -> Iterator[str]:
    """The URL of a new database with the trail in the schema ``audit``."""
    with server.database(trail_template) as url:
        yield url


@pytest.fixture
def trail(trail_url: str) -> Iterator[Trail]:
    """A new database with the trail, to write SQL in and to read the trail of."""
    opened = Trail(trail_url)
    yield opened
    opened.close()


@pytest.fixture
def audit_logger() -> AuditLogger:
    """A logger with its own base, as a project would have it."""
    return AuditLogger()
