#!/usr/bin/env bash
# Nix 2.26 on a machine that has another Nix, or none: a Debian 13 root, entered with namespaces.
#
#   tests/hosts/nix26.sh build                    makes the root once (under ~/.cache/stillframe-tests) and prints where it is
#   tests/hosts/nix26.sh run SHARED CMD [ARG...]  runs CMD in it; SHARED is seen at the same path, stdin and stdout pass through
#
# For instance a worker-protocol daemon over stdio on a scratch store:
#   tests/hosts/nix26.sh run /tmp/scratch env NIX_REMOTE='local?root=/tmp/scratch' nix-daemon --stdio
#
# Each run sees the root as it was made: what it writes outside SHARED lies in memory and is gone with it,
# so give CMD a store inside SHARED. Kill a run with SIGKILL (its processes die with it): util-linux's
# unshare ignores SIGTERM while it waits.
#
# NIX26_ROOT names another root, NIX26_SUITE another Debian release.
set -euo pipefail

SUITE=${NIX26_SUITE:-trixie}
CACHE=${STILLFRAME_TEST_CACHE:-$HOME/.cache/stillframe-tests}
ROOT=${NIX26_ROOT:-$CACHE/debian-$SUITE-nix}

die() {
    echo "nix26.sh: $*" >&2
    exit 1
}

# The mirror this machine itself is configured for.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'ORIGIN: Debian' 2>/dev/null |
        awk -v name="$codename" '$2 == name { print $1; exit }'
}

build() {
    [ -e "$ROOT/.complete" ] && return
    [ "$(id -u)" = 0 ] || die "building the root needs root rights"
    mkdir -p "$(dirname "$ROOT")"
    # Two callers at once: the second waits and finds the work done.
    exec 9>"$ROOT.lock"
    flock 9
    if [ -e "$ROOT/.complete" ]; then
        exec 9>&-
        return
    fi
    if ! command -v mmdebstrap >/dev/null; then
        apt-get install --yes --no-install-recommends mmdebstrap >&2 || die "cannot install mmdebstrap"
    fi
    local uri partial
    uri=$(mirror)
    partial=$ROOT.partial
    rm -rf "$partial"
    # shellcheck disable=SC2086  # an empty mirror is left out: mmdebstrap then takes its default
    mmdebstrap --quiet --variant=minbase --include=nix-bin,ca-certificates "$SUITE" "$partial" $uri >&2 ||
        die "mmdebstrap failed"
    mkdir -p "$partial/etc/nix"
    cat >"$partial/etc/nix/nix.conf" <<-'CONF'
	build-users-group = nixbld
	sandbox = true
	substituters =
	experimental-features = nix-command
	CONF
    if ! grep -q '^nixbld:' "$partial/etc/group"; then
        chroot "$partial" groupadd --system nixbld
        local i
        for i in 1 2 3 4 5 6 7 8; do
            chroot "$partial" useradd --system --no-create-home --home-dir /var/empty --shell /usr/sbin/nologin \
                --gid nixbld --groups nixbld --comment "Nix build user $i" "nixbld$i"
        done
    fi
    touch "$partial/.complete"
    rm -rf "$ROOT"
    mv "$partial" "$ROOT"
    exec 9>&-
}

# Inside the new namespaces, before the command: $1 root, $2 shared, the rest is the command.
enter() {
    local root=$1 shared=$2 stage new name
    shift 2
    mount --make-rprivate /
    # The stage hides whatever is mounted there, in this mount namespace alone.
    for stage in /mnt /media /srv /opt ""; do
        case $root/:$shared/ in "$stage"/* | *:"$stage"/*) continue ;; esac
        [ -d "$stage" ] && break
    done
    [ -n "$stage" ] || die "no directory to stage the root at"
    mount -t tmpfs -o mode=755 nix26 "$stage"
    new=$stage/root
    mkdir "$stage/upper" "$stage/work" "$new"
    mount -t overlay -o "lowerdir=$root,upperdir=$stage/upper,workdir=$stage/work" nix26 "$new"
    mkdir -p "$new/proc" "$new/dev" "$new/sys" "$new/.old"
    mount -t proc proc "$new/proc"
    mount -t tmpfs -o mode=755 dev "$new/dev"
    for name in null zero full random urandom tty; do
        touch "$new/dev/$name"
        mount --bind "/dev/$name" "$new/dev/$name"
    done
    mkdir "$new/dev/pts" "$new/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
    ln -s pts/ptmx "$new/dev/ptmx"
    mount -t tmpfs -o mode=1777 shm "$new/dev/shm"
    ln -s /proc/self/fd "$new/dev/fd"
    ln -s /proc/self/fd/0 "$new/dev/stdin"
    ln -s /proc/self/fd/1 "$new/dev/stdout"
    ln -s /proc/self/fd/2 "$new/dev/stderr"
    # The network is the machine's, so its names and certificates are too.
    for name in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
        if [ -e "$name" ]; then
            mkdir -p "$new${name%/*}"
            rm -f "$new$name"
            cat "$name" >"$new$name"
        fi
    done
    # Build users of their own: a Nix outside kills whatever else runs as one of its users, here too.
    awk -F: -v OFS=: '$1 ~ /^nixbld[0-9]+$/ { $3 = 30000 + substr($1, 7) } { print }' \
        "$new/etc/passwd" >"$new/etc/passwd.new"
    mv "$new/etc/passwd.new" "$new/etc/passwd"
    mkdir -p "$new$shared"
    mount --rbind "$shared" "$new$shared"
    # pivot_root, not chroot: Nix's sandbox pivots again, which a chrooted process may not.
    cd "$new"
    pivot_root . .old
    umount --lazy /.old
    rmdir /.old 2>/dev/null || true
    cd "$shared"
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
    export NIX_SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
    unset TMPDIR NIX_REMOTE NIX_STORE_DIR NIX_STATE_DIR NIX_LOG_DIR NIX_CONF_DIR NIX_USER_CONF_FILES NIX_PATH
    # Not exec: as process 1 of its namespace the shell reaps what the command leaves behind.
    local status=0
    "$@" || status=$?
    exit $status
}

case ${1:-} in
build)
    build
    echo "$ROOT"
    ;;
run)
    [ $# -ge 3 ] || die "usage: nix26.sh run SHARED CMD [ARG...]"
    [ "$(id -u)" = 0 ] || die "running in the root needs root rights (mount namespaces, pivot_root)"
    [ -d "$2" ] || die "$2 is no directory"
    build
    shared=$(realpath "$2")
    self=$(realpath "${BASH_SOURCE[0]}")
    shift 2
    exec unshare --mount --pid --fork --kill-child=KILL -- bash "$self" .enter "$ROOT" "$shared" "$@"
    ;;
.enter)
    shift
    enter "$@"
    ;;
*)
    die "usage: nix26.sh build | run SHARED CMD [ARG...]"
    ;;
esac
