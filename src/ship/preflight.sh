# What stillframe asks of a host in one go. POSIX sh; prints `key value` lines; changes nothing.
# Arguments: the agent's program, then folders and files that must be there.
say() { printf '%s %s\n' "$1" "$2"; }
first() { head -n 1 2>/dev/null; }
# An empty file, which a power cut may leave, is a script to a shell and succeeds.
runs() { case $(timeout 5 "$1" --version 2>/dev/null </dev/null) in "stillframe-agent "*) return 0 ;; esac; return 1; }
runs "$1" && say agent yes
shift
say machine "$(uname -m)"
say kernel "$(uname -r)"
say os "$(. /etc/os-release 2>/dev/null; printf %s "${PRETTY_NAME:-unknown}")"
say hostname "$(uname -n)"
say init "$(cat /proc/1/comm 2>/dev/null)"
say systemd "$(systemctl --version 2>/dev/null | first | awk '{print $2}')"
say nix "$(nix-store --version 2>/dev/null | first | awk '{print $NF}')"
say daemon "$(command -v nix-daemon 2>/dev/null)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{print $2}')"
say cpus "$(nproc 2>/dev/null)"
say memory_kib "$(awk '/^MemTotal:/ {print $2}' /proc/meminfo 2>/dev/null)"
store=/nix/store
[ -d $store ] || store=/
say store_free_kib "$(df -Pk $store 2>/dev/null | awk 'NR==2 {print $4}')"
say store_free_inodes "$(df -Pi $store 2>/dev/null | awk 'NR==2 {print $4}')"
state=/var/lib/stillframe
[ -d $state ] || state=/var/lib
say state_free_kib "$(df -Pk $state 2>/dev/null | awk 'NR==2 {print $4}')"
say cuda_driver "$(sed -n 's/^NVRM version:.* \([0-9][0-9]*\.[0-9.]*\) .*/\1/p' /proc/driver/nvidia/version 2>/dev/null | first)"
if [ -e /proc/driver/nvidia/version ]; then
    for library in /usr/lib/*-linux-gnu/libcuda.so.1 /usr/lib64/libcuda.so.1 /usr/lib/libcuda.so.1 /run/opengl-driver/lib/libcuda.so.1; do
        [ -e $library ] || continue
        say driver_glibc "$(grep -ao 'GLIBC_2\.[0-9]*' $library | sed 's/GLIBC_//' | sort -uV | tail -n 1)"
        break
    done
fi
for gpu in /dev/nvidia[0-9]*; do
    [ -e "$gpu" ] && say gpu "${gpu#/dev/nvidia}"
done
# Listening TCP sockets (state 0A): local address and port, hexadecimal.
for table in /proc/net/tcp /proc/net/tcp6; do
    awk 'NR > 1 && $4 == "0A" {print "listens", $2}' $table 2>/dev/null
done
agent=/var/lib/stillframe/agent/bin/stillframe-agent
if [ -L ${agent%/bin/*} ]; then
    runs $agent || say broken_agent "$(readlink ${agent%/bin/*})"
    systemctl is-enabled --quiet stillframe.service 2>/dev/null && say prepared yes
fi
systemctl is-failed --quiet stillframe.service 2>/dev/null && say boot_failed yes
# An older agent does not know the question.
[ -x $agent ] && $agent problems 2>/dev/null </dev/null | while read -r line; do say broken "$line"; done
# The ports that are ours, public ones and those of the metrics: taken, and not by somebody else.
for socket in /run/systemd/system/stillframe-*-gateway.socket; do
    [ -e "$socket" ] || continue
    name=${socket##*/stillframe-}
    name=${name%-gateway.socket}
    say serves "$name $(sed -n 's/^ListenStream=.*://p' "$socket")"
    settings=/run/stillframe/$name/gateway.json
    say measures "$name $(sed -n 's/^ *"metrics": ".*:\([0-9]*\)",*$/\1/p' "$settings" 2>/dev/null)"
done
for path in "$@"; do
    # A//B: B in some folder of A.
    case $path in
    *//*)
        for file in "${path%%//*}"/*/"${path#*//}"; do
            [ -e "$file" ] && say file "$path" && break
        done
        continue
        ;;
    esac
    if [ -d "$path" ]; then
        say folder "$path"
    elif [ -e "$path" ]; then
        say file "$path"
    fi
done
