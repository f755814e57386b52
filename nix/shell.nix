# For work on stillframe itself. The tests want Debian's tools and root (README.md); this is for the rest.
{ pkgs }:
pkgs.mkShell {
  packages = [
    pkgs.cargo
    pkgs.clippy
    pkgs.nixfmt-rfc-style
    pkgs.python3
    pkgs.rust-analyzer
    pkgs.rustc
    pkgs.rustfmt
  ];
}
