"""The errors that the demo's commands report in one line, with exit code 2."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message says what is wrong and what to do about it."""


class ServerError(DemoError):
    """The embedded PostgreSQL server cannot be started or stopped."""


class DatabaseError(DemoError):
    """The database named by AUDIT_DATABASE_URL cannot be used."""


class AddressError(DemoError):
    """The web server cannot listen on the address."""


class DataError(DemoError):
    """The demo's own data contradict themselves."""
