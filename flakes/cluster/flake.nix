# What every host of the cluster runs. One host is one file in hosts/; what all of them share is cluster.nix.
{
  description = "A Kubernetes cluster of NixOS hosts";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
    nixos-hardware.url = "github:NixOS/nixos-hardware";
    disko = {
      url = "github:nix-community/disko";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    deploy-rs = {
      url = "github:serokell/deploy-rs";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;

      isHost = file: kind: kind == "regular" && lib.hasSuffix ".nix" file;
      names = map (lib.removeSuffix ".nix") (
        builtins.attrNames (lib.filterAttrs isHost (builtins.readDir ./hosts))
      );

      # A host says its own architecture (nixpkgs.hostPlatform), so both kinds stand side by side here.
      host =
        name:
        lib.nixosSystem {
          specialArgs = { inherit inputs; };
          modules = [
            inputs.disko.nixosModules.disko
            ./modules
            ./cluster.nix
            (./hosts + "/${name}.nix")
            { networking.hostName = name; }
          ];
        };

      # The same hosts for deploy-rs: nix run github:serokell/deploy-rs -- .#cp1
      node =
        _name: nixos:
        let
          system = nixos.config.nixpkgs.hostPlatform.system;
        in
        {
          hostname = nixos.config.cluster.address;
          sshUser = nixos.config.cluster.deployUser.name;
          user = "root";
          profiles.system.path = inputs.deploy-rs.lib.${system}.activate.nixos nixos;
        };
    in
    {
      nixosConfigurations = lib.genAttrs names host;
      deploy.nodes = lib.mapAttrs node self.nixosConfigurations;
    };
}
