//! Formats of Nix: store paths, derivations, NAR, worker protocol messages.
