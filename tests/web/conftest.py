"""An application with the audit pages, on a database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server import Server
from tests.web.site import Site

MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(server: Server, trail_template: str) -> Iterator[MakeSite]:
    """Make an application with the options of :class:`Site`.

    All applications of a test share a new database, unless they are given the URL of another. The
    first one finds its tables there already, where it does not ask for ``create``.
    """
    with contextlib.ExitStack() as stack:
        shared: list[str] = []

        def make(url: str | None = None, *, create: bool | None = None, **options: Any) -> Site:
            if url is None and not shared:
                template = trail_template
                if create is None:
                    template, create = site_template(server, template, options.get("extend")), False
                shared.append(stack.enter_context(server.database(template)))
            site = Site(url or shared[0], create=create is not False, **options)
            stack.callback(site.close)
            return site

        yield make


def site_template(server: Server, of: str, extend: Callable[[Any], Any] | None) -> str:
    """Return the name of a database to clone, in which the tables of a site are tracked."""
    return server.template(("site", extend), lambda url: Site(url, extend=extend).close(), of)


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """The application as most tests need it: mounted at /audit/, open to everybody."""
    return make_site()
