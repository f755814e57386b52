# What the demo's hosts written in Nix share. Those in TOML share what stillframe.toml says under [service].
{
  # `make hosts` writes it; relative to this folder's hosts.
  ssh-config = "../.hosts/ssh_config";
  tags = [ "demo" ];
}
