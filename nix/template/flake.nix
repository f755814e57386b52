{
  description = "Our ComfyUI service";

  inputs.stillframe.url = "github:stillframe/stillframe";

  outputs =
    { stillframe, ... }:
    stillframe.lib.mkDeployment {
      # The ComfyUI directory on this workstation, relative to this flake.
      environment = "ComfyUI";

      service = {
        name = "comfyui";
        # Where the models are on the hosts.
        models = "/srv/models";
        port = 8188;
        resources.memory = "24GiB";
        scaling = {
          minimum = 1;
          maximum = 1;
        };
        drain = "60s";
        retention.generations = 3;
      };

      hosts = ./hosts;
    };
}
