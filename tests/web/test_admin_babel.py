"""flask-babel absent, installed but not initialised, and initialised: every page opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.test_admin_mount import EVERY_PAGE

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("state", ["absent", "installed", "initialised"])
def test_every_page_opens(trail_url: str, state: str) -> None:
    if state != "absent":
        pytest.importorskip("flask_babel")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.web.babel_site", state, trail_url],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == len(EVERY_PAGE) * 2
