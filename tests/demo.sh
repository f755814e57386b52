#!/usr/bin/env bash
# `make demo`: the main job on real input, from nothing. Builds the example environment from the package
# index, takes a snapshot of it, serves the snapshot with the environment out of sight, runs a graph,
# changes one pack and shows the difference; then boots two hosts, deploys to them, runs a graph through
# the public port of each, deploys a change under load, rolls back, and shows status and history.
# Everything it makes is in one folder that it removes.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD

say() {
    if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi
}
show() {
    printf '$ stillframe %s\n' "$*"
    "$STILLFRAME" "$@"
}

tests/lib/setup.sh >/dev/null
make agent
cargo build --release --locked --bin stillframe
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
STILLFRAME=$TARGET/release/stillframe

WORK=$(mktemp -d)
server=
load=
hosts_up=
finish() {
    [ -z "$load" ] || kill "$load" 2>/dev/null || true
    if [ -n "$hosts_up" ]; then
        python3 tests/hosts/hosts.py --state "$WORK/project/.hosts" down
    fi
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill "$server"
        wait "$server" || true
    fi
    chmod -R u+w "$WORK" && rm -rf "$WORK"
}
trap finish EXIT

mkdir -p "$WORK/store/nix" "$WORK/home" /nix
# A workstation of its own: nothing of this machine's store, state or caches is touched.
export NIX_REMOTE="local?root=$WORK/store" XDG_STATE_HOME=$WORK/state XDG_CACHE_HOME=$WORK/cache

say "The example environment: 47 distributions, 15 packs, a cache, models"
COMFY=$(python3 tests/fixtures/environment/build.py "$WORK/environment")
du -sh "$COMFY" | cut -f1

say "What is there, and what would not survive a deploy"
show inspect "$COMFY" --quiet

say "The first snapshot, with the node classes the environment's own server has"
show snapshot "$COMFY" --label first --probe --quiet
say "The same again: nothing changed"
show snapshot "$COMFY" --quiet

say "Serving it: an empty environment, and a mount namespace in which the environment does not exist"
PICTURES=$WORK/pictures
mkdir "$PICTURES"
env -i PATH="$PATH" HOME="$WORK/home" XDG_STATE_HOME="$XDG_STATE_HOME" XDG_CACHE_HOME="$XDG_CACHE_HOME" \
    unshare --mount --propagation private sh -ec '
        mount --bind "$1" /nix
        mount -t tmpfs none "$2"
        ls -A "$2" | grep -q . && exit 1
        shift 2
        exec "$@"' sh "$WORK/store/nix" "$WORK/environment" \
    "$STILLFRAME" run first --base "$PICTURES" --json >"$WORK/ready.json" 2>"$WORK/server.log" &
server=$!
for _ in $(seq 600); do
    # jq says yes to an empty file.
    [ -s "$WORK/ready.json" ] && jq -e .url "$WORK/ready.json" >/dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || { cat "$WORK/server.log" >&2; exit 1; }
    sleep 0.1
done
URL=$(jq -r .url "$WORK/ready.json")
echo "serving on $URL, ready in $(jq .ready_ms "$WORK/ready.json") ms"

say "A graph"
PROMPT=$(jq '{prompt: ., client_id: "demo"}' tests/fixtures/environment/graph.json |
    curl -fsS --noproxy '*' -H 'Content-Type: application/json' -d @- "$URL/prompt" | jq -r .prompt_id)
for _ in $(seq 300); do
    curl -fsS --noproxy '*' "$URL/history/$PROMPT" >"$WORK/history.json"
    jq -e --arg id "$PROMPT" '.[$id].status.completed' "$WORK/history.json" >/dev/null && break
    sleep 0.1
done
IMAGE=$(jq -r --arg id "$PROMPT" '.[$id].outputs[].images[0].filename' "$WORK/history.json")
mkdir -p "$TARGET/demo"
cp "$PICTURES/output/$IMAGE" "$TARGET/demo/picture.png"
file_kind=$(head -c 4 "$TARGET/demo/picture.png" | tail -c 3)
[ "$file_kind" = PNG ]
echo "picture: $TARGET/demo/picture.png"
kill "$server"
wait "$server"
server=

say "One pack changes; what is served does not. A second snapshot, and the difference"
cat >>"$COMFY/custom_nodes/plain-folder/__init__.py" <<'CHANGE'


class CaptionStampBold(CaptionStamp):
    pass


NODE_CLASS_MAPPINGS["CaptionStampBold"] = CaptionStampBold
CHANGE
show snapshot "$COMFY" --label second --probe --quiet
show snapshots diff first second
show snapshots list

say "Rebuilt from its derivations by Nix, wheels fetched from the index, every hash compared"
show --quiet snapshots verify second

say "Two hosts: real Debian 13 machines with systemd, sshd and Nix"
HOSTS="python3 $ROOT/tests/hosts/hosts.py --state $WORK/project/.hosts"
$HOSTS up -n 2
hosts_up=1
for host in alpha beta; do
    $HOSTS exec "$host" mkdir -p /srv/models/checkpoints
done
# The hosts' network is one of its own: what speaks with them runs there.
CLIENT="$HOSTS client"
deploying() {
    printf '$ stillframe %s\n' "$*"
    (cd "$WORK/project" && $CLIENT "$STILLFRAME" "$@")
}
# The hosts and the service of this repository, in a project of their own: with another environment.
KEY=$WORK/project/.hosts/api-key
cp -r hosts "$WORK/project/"
sed "s|^environment = .*|environment = \"$COMFY\"|" stillframe.toml >"$WORK/project/stillframe.toml"
head -c 24 /dev/urandom | base64 >"$KEY"
cat "$WORK/project/stillframe.toml" hosts/alpha.nix hosts/beta.toml

say "What they have and lack; then what they need, once"
deploying host check || true
deploying host prepare --yes

say "The first snapshot, deployed: copied to both, healthy, then the traffic"
deploying --quiet deploy --snapshot first

ask() { # HOST PATH [CURL ARGUMENTS]: through the public port
    local host=$1 path=$2
    shift 2
    $CLIENT curl -fsS --noproxy '*' -H "X-Api-Key: $(cat "$KEY")" "$@" "http://$($HOSTS list | awk -v h="$host" '$1 == h {print $2}'):8188$path"
}
for host in alpha beta; do
    say "A graph through the public port of $host"
    PROMPT=$(jq '{prompt: ., client_id: "demo"}' tests/fixtures/environment/graph.json >"$WORK/prompt.json" &&
        ask "$host" /prompt -H 'Content-Type: application/json' -d "@$WORK/prompt.json" | jq -r .prompt_id)
    for _ in $(seq 300); do
        ask "$host" "/history/$PROMPT" >"$WORK/history.json"
        jq -e --arg id "$PROMPT" '.[$id].status.completed' "$WORK/history.json" >/dev/null && break
        sleep 0.1
    done
    IMAGE=$(jq -r --arg id "$PROMPT" '.[$id].outputs[].images[0].filename' "$WORK/history.json")
    ask "$host" "/view?filename=$IMAGE&type=output" -o "$TARGET/demo/$host.png"
    [ "$(head -c 4 "$TARGET/demo/$host.png" | tail -c 3)" = PNG ]
    echo "picture: $TARGET/demo/$host.png"
done

say "A change, deployed under load: every request is counted"
ADDRESS=$($HOSTS list | awk '$1 == "alpha" {print $2}')
$CLIENT python3 "$ROOT/tests/e2e/load.py" "http://$ADDRESS:8188" --requests 4 --sockets 10 --uploads 0 --jobs 0 \
    --key-file "$KEY" >"$WORK/load.json" &
load=$!
sleep 1
deploying --quiet deploy --label third --offline
kill "$load"
wait "$load" || true
load=
jq -r '"requests that went well: \(.count.requests); messages over WebSockets: \(.count.messages); failed: \(.failures | length)"' "$WORK/load.json"
[ "$(jq '.failures | length' "$WORK/load.json")" = 0 ]

say "Back to exactly what served before"
deploying --quiet rollback

say "What is served, and how it came about"
deploying status
deploying instances
deploying history
say "What the hosts keep, and why"
deploying retention --dry-run

say "Done."
