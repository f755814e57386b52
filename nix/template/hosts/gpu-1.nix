# One file a host; its name is the file's. What hosts share can be in a folder of hosts/: imports = [ ./shared/gpu.nix ];
{
  address = "gpu-1.example";
  user = "deploy";
  tags = [ "gpu" ];
  # What differs from `service` in flake.nix:
  service = { };
}
