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

      nixos =
        name:
        let
          configuration = configurationOf name;
        in
        {
          config = configuration // {
            system.build = import ./nixos/system.nix { inherit name configuration merge; };
          };
          pkgs.system = configuration.system or "x86_64-linux";
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
