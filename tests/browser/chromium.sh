#!/bin/sh
# Print the path of a Chromium, installing one if there is none. Everything else goes to stderr.
# Fails, with a message, where none can be had: the browser tests are never skipped silently.
set -eu

if [ -n "${CHROMIUM:-}" ]; then
    echo "$CHROMIUM"
    exit 0
fi

find_one() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name"; then
            return 0
        fi
    done
    # One that Playwright downloaded before.
    "$python" - <<'PY'
import pathlib
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    path = pathlib.Path(playwright.chromium.executable_path)
if not path.exists():
    sys.exit(1)
print(path)
PY
}

apt_install() {
    if ! command -v apt-get >/dev/null; then
        return 1
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo='sudo -n'
    else
        return 1
    fi
    echo "Installing Chromium with apt-get (once) ..." >&2
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c '
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null
    ' >&2
}

playwright_install() {
    echo "Downloading Chromium with Playwright (once) ..." >&2
    "$python" -m playwright install chromium >&2
}

python=${PYTHON_BIN:-.venv/bin/python}
if found=$(find_one 2>/dev/null); then
    echo "$found"
    exit 0
fi
apt_install || playwright_install || true
if found=$(find_one 2>/dev/null); then
    echo "$found"
    exit 0
fi
echo "The browser tests need Chromium, and it could not be installed: install the package chromium," >&2
echo "or point the environment variable CHROMIUM at one." >&2
exit 1
