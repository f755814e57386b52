# Tests of every exported function of nix/lib: the list of those that fail, which is to be empty.
#   nix-instantiate --eval --strict --json nix/tests/lib.nix
let
  lib = import ../lib;
  words = import ../lib/words.nix;
  inherit (builtins)
    attrNames
    elem
    filter
    head
    length
    map
    removeAttrs
    ;

  # One host under the name "a": its configuration and what is wrong with it.
  host =
    part:
    let
      result = lib.tryHosts { hosts.a = part; };
    in
    {
      config = result.hosts.a;
      inherit (result) errors;
    };
  fine = part: (host part).config;
  wrong = part: (host part).errors;
  at = more: { address = "x"; } // more;
  service = more: at { service = more; };

  names = map (o: o.name) (lib.optionsOf { "$ref" = "#/$defs/HostConfig"; } "");
  options = lib.optionsOf { "$ref" = "#/$defs/HostConfig"; } "";
  option = name: head (filter (o: o.name == name) options);

  tests = {
    values = {
      is = fine (at {
        port = 22;
        tags = [ "eu" ];
      });
      want = {
        address = "x";
        port = 22;
        tags = [ "eu" ];
      };
    };
    functionsGetTheirNameLibAndConfig = {
      is = fine (
        {
          name,
          lib,
          config,
          ...
        }:
        {
          address = "${name}.example";
          jump = "via-${config.address}";
          user = lib.mkDefault "u";
        }
      );
      want = {
        address = "a.example";
        jump = "via-a.example";
        user = "u";
      };
    };
    functionsOfOneArgument = {
      is = fine (all: { address = all.name; });
      want.address = "a";
    };
    furtherArguments = {
      is = lib.evalHost {
        name = "a";
        part = { domain, ... }: { address = "a.${domain}"; };
        arguments.domain = "example";
      };
      want.address = "a.example";
    };
    importsComeFirstInLists = {
      is =
        (fine (at {
          imports = [
            { tags = [ "one" ]; }
            { tags = [ "two" ]; }
          ];
          tags = [ "own" ];
        })).tags;
      want = [
        "one"
        "two"
        "own"
      ];
    };
    whatTwoImportCountsOnce = {
      is =
        (fine (at {
          imports = [
            { imports = [ ./shared.nix ]; }
            ./shared.nix
          ];
        })).tags;
      want = [ "shared" ];
    };
    setsAreMerged = {
      is =
        (fine {
          imports = [ (service { drain = "1min"; }) ];
          service.resources.cpu = 2;
        }).service;
      want = {
        drain = "1min";
        resources.cpu = 2;
      };
    };
    priorities = {
      is =
        let
          port =
            a: b:
            (fine {
              imports = [
                (service { port = a; })
                { service.port = b; }
              ];
            }).service.port;
        in
        [
          (port (lib.mkDefault 1) 2)
          (port (lib.mkForce 1) 2)
          (port (lib.mkOverride 60 1) (lib.mkForce 2))
          (port 3 3)
        ];
      want = [
        2
        1
        2
        3
      ];
    };
    aForcedSetTakesThePlaceOfAll = {
      is =
        (fine {
          imports = [ (service { environment.A = "1"; }) ];
          service.environment = lib.mkForce { B = "2"; };
        }).service.environment;
      want.B = "2";
    };
    conditionsAndMerges = {
      is =
        (fine (at {
          tags = lib.mkIf false [ "no" ];
          service = lib.mkMerge [
            { port = 1; }
            (lib.mkIf true { drain = "1s"; })
            (lib.mkIf false { drain = "2s"; })
          ];
        }));
      want = {
        address = "x";
        service = {
          port = 1;
          drain = "1s";
        };
      };
    };
    nullIsNotSet = {
      is = fine (at {
        user = null;
        service.folders = [
          {
            path = "/a";
            at = "input/a";
          }
        ];
      });
      want = {
        address = "x";
        service.folders = [
          {
            path = "/a";
            at = "input/a";
          }
        ];
      };
    };
    pathsAreText = {
      is = (fine (at { ssh-config = ./shared.nix; })).ssh-config;
      want = toString ./shared.nix;
    };
    unknownOption = {
      is = wrong (service { prot = 1; });
      want = [ "a: service.prot is no option; did you mean port?" ];
    };
    unknownOptionLikeNoOther = {
      is = wrong (service { resources.elephants = 1; });
      want = [ "a: service.resources.elephants is no option; there are cpu, memory" ];
    };
    missing = {
      is = wrong { };
      want = [ "a: address is not set" ];
    };
    conflict = {
      is = wrong {
        imports = [ (service { port = 1; }) ];
        service.port = 2;
      };
      want = [ "service.port is 1 in a and 2 in a; put mkDefault or mkForce before one of them" ];
    };
    notOfItsType = {
      is =
        wrong (
          at {
            port = "22";
            tags = "eu";
            service = {
              port = 70000;
              drain = "60";
              resources.memory = 24;
              resources.cpu = 0;
              rotation = "slow";
              gpus = "some";
              scaling = 1;
              listen = "here";
              instance-ports = "1-2";
              gateway.hosts = [ "http://a" ];
              gateway.origins = [ "pictures.example" ];
              gateway.trusted-proxies = [ "here" ];
              folders = [ { path = "/a"; } ];
              environment.A = 1;
              secrets.KEY.as = "paper";
            };
          }
        );
      want = [
        "a: port is \"22\", not a whole number"
        "a: service.drain is \"60\", not a span of time with its unit, as in \"60s\" (ms, s, min, h, d)"
        "a: service.environment.A is 1, not a string"
        "a: service.folders[0] lacks at"
        "a: service.gateway.hosts[0] is \"http://a\", not a host name as in \"pictures.example\""
        "a: service.gateway.origins[0] is \"pictures.example\", not a web origin as in \"https://pictures.example\""
        "a: service.gateway.trusted-proxies[0] is \"here\", not a network as in \"10.0.0.0/8\", or an address"
        "a: service.gpus is \"some\", not one of \"auto\", \"all\", \"none\" or a list"
        "a: service.instance-ports is \"1-2\", not a range of ports as in \"20000-20999\""
        "a: service.listen is \"here\", not an IP address"
        "a: service.port is 70000, above 65535"
        "a: service.resources.cpu is 0, below 0.01"
        "a: service.resources.memory is 24, not a size with its unit, as in \"24GiB\" (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)"
        "a: service.rotation is \"slow\", not \"surge\" or \"replace\""
        "a: service.scaling is 1, not a set"
        "a: service.secrets.KEY.as is \"paper\", not one of \"variable\", \"file\""
        "a: tags is \"eu\", not a list"
      ];
    };
    noSet = {
      is = map wrong [
        5
        (_: "text")
      ];
      want = [
        [
          "a: is 5, not a set or a function that returns one"
          "a: address is not set"
        ]
        [
          "a: is \"text\", not a set or a function that returns one"
          "a: address is not set"
        ]
      ];
    };
    secretsStayOutOfTheStore = {
      is = wrong (service { secrets.KEY.file = "${builtins.storeDir}/00000000000000000000000000000000-key"; });
      want = [
        "a: service.secrets.KEY.file is ${builtins.storeDir}/00000000000000000000000000000000-key: what lies in the Nix store can be read by everyone; name the file in a string"
      ];
    };
    badNames = {
      is = (lib.tryHosts { hosts."a b" = at { }; }).errors;
      want = [ "a b: \"a b\" is no name for a host: use letters, digits, '-', '_' and '.'" ];
    };
    folders = {
      is = lib.tryHosts { hosts = ./hosts; };
      want = {
        hosts = {
          gpu-1 = {
            address = "10.0.0.1";
            tags = [
              "shared"
              "eu"
            ];
            service.port = 9000;
          };
          gpu-2 = {
            address = "10.0.0.2";
            port = 2222;
          };
          twice = { };
        };
        errors = [ "hosts/twice.nix and hosts/twice.toml are one host twice: remove one of them" ];
      };
    };
    oneKindOfFile = {
      is = attrNames (
        (lib.tryHosts {
          hosts = ./hosts;
          suffixes = [ ".toml" ];
        }).hosts
      );
      want = [
        "gpu-2"
        "twice"
      ];
    };
    errorsEndAnEvaluation = {
      is = map (part: (builtins.tryEval (lib.evalHosts { hosts.a = part; })).success) [
        (at { })
        { }
      ];
      want = [
        true
        false
      ];
    };
    projects = {
      is = lib.evalProject {
        part =
          { lib, ... }:
          {
            environment = "ComfyUI";
            service.models = "/srv/models";
            rollout.batch = "25%";
          };
      };
      want = {
        environment = "ComfyUI";
        service.models = "/srv/models";
        rollout.batch = "25%";
      };
    };
    # What a runtime of nixpkgs needs to be built with the deployment that names it.
    runtimesFromNixpkgs = {
      is =
        let
          python = derivation {
            name = "python3-3.11.9";
            system = "x86_64-linux";
            builder = "none";
          };
          project = lib.evalProject { part.python.runtime = "${python}"; };
        in
        [
          project.python.runtime
          (builtins.hasContext project.python.runtime)
          (builtins.hasContext (builtins.toJSON project))
        ];
      want = [
        "${derivation {
          name = "python3-3.11.9";
          system = "x86_64-linux";
          builder = "none";
        }}"
        true
        true
      ];
    };
    projectsAreChecked = {
      is = (builtins.tryEval (lib.evalProject { part.rollout.batch = "101%"; })).success;
      want = false;
    };
    optionsForDocuments = {
      is = [
        (elem "service.gateway.api-keys[].env" names)
        (elem "service.secrets.NAME.as" names)
        (elem "service.resources" names)
        (removeAttrs (option "service.drain") [ "description" ])
        (filter (o: o.description == "") options)
      ];
      want = [
        true
        true
        false
        {
          name = "service.drain";
          expects = "a span of time with its unit, as in \"60s\" (ms, s, min, h, d)";
        }
        [ ]
      ];
    };
    wordsThatAreMeant = {
      is = [
        (words.distance "kitten" "sitting")
        (words.nearest "prot" [
          "port"
          "user"
        ])
        (words.nearest "zebra" [ "port" ])
        (words.nearest "x" [ ])
      ];
      want = [
        3
        "port"
        null
        null
      ];
    };
    theSchemaIsTheProgramsOwn = {
      is = lib.schema."$defs" ? HostConfig && lib.schema."$defs" ? Config;
      want = true;
    };
  };
in
{
  failed = map (name: {
    inherit name;
    inherit (tests.${name}) is want;
  }) (filter (name: tests.${name}.is != tests.${name}.want) (attrNames tests));
  count = length (attrNames tests);
}
