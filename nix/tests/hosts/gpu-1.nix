{ lib, ... }:
{
  imports = [ ./shared/all.nix ];
  address = "10.0.0.1";
  tags = [ "eu" ];
  service.port = lib.mkDefault 9000;
}
