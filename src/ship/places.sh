# Where Nix is (its manual, "Installing Nix" and "Profiles"): for all users, of NixOS, of the user alone. A command over SSH, and sudo, have
# none of these on PATH.
PATH=$PATH:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin:${HOME:-/root}/.nix-profile/bin:${XDG_STATE_HOME:-${HOME:-/root}/.local/state}/nix/profile/bin
export PATH
