"""Serves every page in one state of flask-babel: ``python -m tests.web.babel_site STATE URL``.

A process of its own, because Flask-Admin decides on its import whether flask-babel is there.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class Absent(MetaPathFinder):
    """Finds nothing where flask-babel would be."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Refuse the import as if the package were not installed."""
        if name.partition(".")[0] in {"flask_babel", "flask_babelex", "babel"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def main(state: str, url: str) -> None:
    """Print the number of pages that opened."""
    if state == "absent":
        sys.meta_path.insert(0, Absent())
    from flask import Flask
    from flask_admin import Admin, AdminIndexView

    from audit_app import audit_bp
    from audit_app.admin import AuditView
    from tests.web.site import Site
    from tests.web.test_admin_mount import EVERY_PAGE, fill

    def mount(app: Flask) -> None:
        if state == "initialised":
            from flask_babel import Babel

            Babel(app)
        app.register_blueprint(audit_bp)
        # Flask-Admin's own menu entry "Home" fails on every page of a host that installed
        # flask-babel and did not initialise it; a name of one's own does not.
        home = AdminIndexView(name="Start")
        Admin(app, name="Back office", index_view=home).add_view(AuditView())

    site = Site(url, mount=mount, babel=False)
    ids, prefixes = fill(site), ("/audit/", "/admin/audit/")
    for prefix in prefixes:
        for path in EVERY_PAGE:
            site.get(prefix + path.format(**ids))
    loaded = "flask_babel" in sys.modules
    assert loaded == (state != "absent"), (state, loaded)
    site.close()
    print(len(EVERY_PAGE) * len(prefixes))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
