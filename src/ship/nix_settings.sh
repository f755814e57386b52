# What a host's Nix is set to, as far as it is about who may do what. POSIX sh; prints `key value` lines; changes nothing.
say() { printf '%s %s\n' "$1" "$2"; }
# The daemon's settings, not those of who asks.
NIX_USER_CONF_FILES=/dev/null
export NIX_USER_CONF_FILES
nix="nix --extra-experimental-features nix-command"
# Before Nix 2.20 it has another name.
{ $nix config show || $nix show-config; } 2>/dev/null | sed -n 's/^\(sandbox\|trusted-users\|allowed-users\|require-sigs\) = \(.*\)$/\1 \2/p'
socket=/nix/var/nix/daemon-socket/socket
[ -S $socket ] && say socket "$(stat -c %a $socket) $(stat -c %a ${socket%/*})"
systemctl show --property Listen nix-daemon.socket 2>/dev/null | sed -n 's/^Listen=\(.*\) (.*)$/listens \1/p'
exit 0
