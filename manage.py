"""The demo's command line: ``python manage.py demo``, ``python manage.py db ...``."""

from __future__ import annotations

from demo.commands import main

if __name__ == "__main__":
    main()
