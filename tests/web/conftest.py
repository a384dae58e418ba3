"""An application with the audit pages, on a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.web.site import Site

MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(trail_url: str) -> Iterator[MakeSite]:
    """Make an application with the options of :class:`Site`."""
    made: list[Site] = []

    def make(url: str = trail_url, **options: Any) -> Site:
        made.append(Site(url, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """The application as most tests need it: mounted at /audit/, open to everybody."""
    return make_site()
