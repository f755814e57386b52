{ name, ... }:
{
  imports = [ ./shared/demo.nix ];
  address = name;
}
