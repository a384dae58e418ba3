#!/bin/sh
# Install PgBouncer where that needs no question: as root, or with sudo, on Debian. Prints nothing
# on success and never fails: without PgBouncer the tests of transaction pooling are skipped, and
# say so.
set -eu

PATH=$PATH:/usr/sbin:/usr/local/sbin
if command -v pgbouncer >/dev/null || ! command -v apt-get >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo='sudo -n'
else
    exit 0
fi
echo "Installing PgBouncer with apt-get (once) ..." >&2
$sudo env DEBIAN_FRONTEND=noninteractive sh -c '
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer; } >/dev/null
' >&2 || echo "PgBouncer could not be installed; its tests are skipped." >&2
