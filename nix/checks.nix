# `nix flake check`: the library's own tests, and that the packages build.
{ pkgs, packages }:
let
  result = import ./tests/lib.nix;
in
{
  inherit (packages) stillframe stillframe-agent;

  lib =
    if result.failed == [ ] then
      pkgs.runCommand "stillframe-lib-tests" { } "echo ${toString result.count} tests >$out"
    else
      throw "tests of nix/lib fail: ${builtins.toJSON result.failed}";
}
