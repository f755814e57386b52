#!/usr/bin/env bash
# Boots one test host: Debian's systemd as process 1 of namespaces of its own, over an overlay on the cached root.
#
#   boot.sh supervise DIR IMAGE NETNS CGROUP    boots it, again whenever it reboots itself; ends when it powers off or is killed
#
# DIR holds what is the host's own: upper/ (its changes), nix.img, var.img and etc.img (its /nix, /var and /etc, of limited size), etc/
# (files laid over /etc). They are file systems of their own because a power cut must be able to take what was not synced; /var also because
# an overlay has no idmapped mounts, which systemd uses for dynamic users.
# Everything is mounted in the host's own mount namespace, so nothing is left behind when it dies.
set -euo pipefail

supervise() {
    local dir=$1 image=$2 netns=$3 cgroup=$4 self status
    self=$(realpath "$0")
    mkdir -p "$dir/upper" "$dir/work" "$dir/root" "$cgroup"
    while :; do
        status=0
        # Into the host's own control group first: it is the root of what the host sees.
        bash -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' bash "$cgroup" \
            ip netns exec "$netns" unshare --mount --pid --ipc --uts --cgroup --fork --kill-child=KILL -- \
            bash "$self" inside "$dir" "$image" </dev/null >>"$dir/console" 2>&1 &
        echo $! >"$dir/unshare.pid"
        wait $! || status=$?
        # reboot(2) in a PID namespace ends its process 1 by SIGHUP, power off by SIGINT (pid_namespaces(7)).
        [ "$status" = 129 ] || break
    done
}

inside() {
    local dir=$1 image=$2 new name
    new=$dir/root
    mount --make-rprivate /
    mount -t overlay -o "lowerdir=$image,upperdir=$dir/upper,workdir=$dir/work" host "$new"
    mount -o loop "$dir/nix.img" "$new/nix"
    if [ ! -e "$new/nix/.filled" ]; then
        # What the image brought in /nix is below the new file system.
        [ ! -d "$image/nix/var" ] || cp -a "$image/nix/." "$new/nix/"
        mkdir -p "$new/nix/store" "$new/nix/var/nix"
        chgrp 989 "$new/nix/store" 2>/dev/null || true
        touch "$new/nix/.filled"
    fi
    for name in var etc; do
        mount -o loop "$dir/$name.img" "$new/mnt"
        if [ ! -e "$new/mnt/.filled" ]; then
            cp -a "$new/$name/." "$new/mnt/"
            touch "$new/mnt/.filled"
        fi
        mount --move "$new/mnt" "$new/$name"
    done
    cp -a "$dir/etc/." "$new/etc/"
    # What the tests themselves bring is no write that a power cut should take.
    sync -f "$new/etc"
    mount -t proc proc "$new/proc"
    mount -t sysfs sysfs "$new/sys"
    mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
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
    mount -t tmpfs -o mode=755 run "$new/run"
    mount -t tmpfs -o mode=1777 tmp "$new/tmp"
    mkdir -p "$new/.old"
    cd "$new"
    hostname "$(cat etc/hostname)"
    pivot_root . .old
    # As on a machine of its own: systemd leaves this to whoever made the container, and its credentials need it.
    mount --make-rshared /
    umount --lazy /.old
    rmdir /.old 2>/dev/null || true
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
}

command=$1
shift
"$command" "$@"
