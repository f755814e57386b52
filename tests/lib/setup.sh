#!/usr/bin/env bash
# Makes a Debian 12 machine able to run the tests: called by `make test` and `make demo`, and quick when there is nothing to do.
#
#   tests/lib/setup.sh            installs what is missing (as root), or says what is
#   tests/lib/setup.sh --check    only says what is missing; status 1 if something is
#
# It prints the directory of the Python tools (uv) on its last line.
set -euo pipefail

CACHE=${STILLFRAME_TEST_CACHE:-$HOME/.cache/stillframe-tests}
TOOLS=$CACHE/tools
UV_VERSION=0.7.12
NIX_CONF=/etc/nix/nix.conf
BUILDERS=10

# command=package: what a test calls, and what brings it.
WANTED="nix-store=nix-bin mmdebstrap=mmdebstrap git=git zstd=zstd jq=jq patchelf=patchelf readelf=binutils
    unshare=util-linux mount=mount ip=iproute2 ethtool=ethtool ssh=openssh-client curl=curl make=make cc=gcc musl-gcc=musl-tools strace=strace busybox=busybox-static"

check_only=
[ "${1:-}" = --check ] && check_only=1

say() {
    echo "setup: $*" >&2
}

# --- what is missing

PATH=$PATH:/usr/sbin:/sbin
packages=()
for pair in $WANTED; do
    command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
done
# The venv module is a package of its own on Debian, and only Debian's own interpreter needs it.
python=$(command -v python3 || true)
if [ -z "$python" ]; then
    packages+=(python3 python3-venv)
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    packages+=(python3-venv)
fi

group_missing=
getent group nixbld | grep -q 'nixbld1' || group_missing=1
sandbox_missing=
grep -Eqs '^[[:space:]]*sandbox[[:space:]]*=[[:space:]]*true' "$NIX_CONF" || sandbox_missing=1
tools_missing=
"$TOOLS/bin/uv" --version 2>/dev/null | grep -q "^uv $UV_VERSION\b" || tools_missing=1

report=()
[ ${#packages[@]} -eq 0 ] || report+=("packages: ${packages[*]}")
[ -z "$group_missing" ] || report+=("group nixbld with its users")
[ -z "$sandbox_missing" ] || report+=("'sandbox = true' in $NIX_CONF")

if [ -n "$check_only" ]; then
    [ -z "$tools_missing" ] || report+=("uv $UV_VERSION in $TOOLS")
    for line in ${report[@]+"${report[@]}"}; do
        say "missing: $line"
    done
    [ ${#report[@]} -eq 0 ]
    exit
fi

if [ ${#report[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; then
    for line in "${report[@]}"; do
        say "missing: $line"
    done
    say "run $(realpath "$0") once as root; after that the tests find all they need"
    exit 1
fi

# --- bring it

if [ ${#packages[@]} -gt 0 ]; then
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2 >&2 || say "apt-get update failed in part; going on with what there is"
    apt-get install --yes --quiet=2 --no-install-recommends "${packages[@]}" >&2
fi

if [ -n "$group_missing" ]; then
    say "making group nixbld and $BUILDERS users"
    getent group nixbld >/dev/null || groupadd --system nixbld
    for i in $(seq "$BUILDERS"); do
        id "nixbld$i" >/dev/null 2>&1 ||
            useradd --system --no-create-home --home-dir /var/empty --shell /usr/sbin/nologin \
                --gid nixbld --comment "Nix build user $i" "nixbld$i"
        # A build user must be listed in the group, not merely have it as its own.
        gpasswd --add "nixbld$i" nixbld >/dev/null
    done
fi

if [ -n "$sandbox_missing" ]; then
    say "setting sandbox = true in $NIX_CONF"
    mkdir -p "$(dirname "$NIX_CONF")"
    touch "$NIX_CONF"
    # Another value is taken out first, so that one line says it.
    sed -i -E '/^[[:space:]]*sandbox[[:space:]]*=/d' "$NIX_CONF"
    [ -z "$(tail -c 1 "$NIX_CONF")" ] || echo >>"$NIX_CONF"
    echo 'sandbox = true' >>"$NIX_CONF"
fi

if [ -n "$tools_missing" ]; then
    say "installing uv $UV_VERSION into $TOOLS"
    rm -rf "$TOOLS"
    mkdir -p "$CACHE"
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" >&2
fi

echo "$TOOLS"
