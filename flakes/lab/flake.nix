{
  description = "The hosts of a lab: common.json, then roles/<role>.json, then hosts/<host>.json, merged";

  outputs =
    { self }:
    let
      read = path: builtins.fromJSON (builtins.readFile path);

      # Objects merge, everything else is replaced: nixpkgs' lib.recursiveUpdate, without nixpkgs.
      merge =
        lower: upper:
        lower
        // builtins.mapAttrs (
          name: value:
          if builtins.isAttrs value && builtins.isAttrs (lower.${name} or null) then merge lower.${name} value else value
        ) upper;

      isHost = file: builtins.match ".*\\.json" file != null;
      nameOf = file: builtins.head (builtins.match "(.*)\\.json" file);
      names = map nameOf (builtins.filter isHost (builtins.attrNames (builtins.readDir ./hosts)));

      configurationOf =
        name:
        let
          own = read (./hosts + "/${name}.json");
          role = read (./roles + "/${own.role or "worker"}.json");
        in
        merge (merge (read ./common.json) role) own;

      # A stand-in for a NixOS system: one file that holds the configuration. Real NixOS would build a closure here.
      build =
        label: configuration:
        derivation {
          name = label;
          system = configuration.system or "x86_64-linux";
          builder = "/bin/sh";
          args = [
            "-c"
            "echo \"$configuration\" > $out"
          ];
          configuration = builtins.toJSON configuration;
        };

      nixos = name: {
        config = configurationOf name // {
          system.build = {
            toplevel = build "nixos-system-${name}-25.11" (configurationOf name);
            diskoScript = build "disko" { inherit name; };
          };
        };
        pkgs.system = (configurationOf name).system or "x86_64-linux";
      };
    in
    {
      nixosConfigurations = builtins.listToAttrs (
        map (name: {
          inherit name;
          value = nixos name;
        }) names
      );
    };
}
