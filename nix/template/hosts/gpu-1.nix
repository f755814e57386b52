# One file a host; its name is the file's. Everything here may also be said in ../flake.nix for all of them.
{
  address = "gpu-1.example";
  user = "deploy";
  tags = [ "gpu" ];
  # What differs from `service` in flake.nix:
  service = { };
}
