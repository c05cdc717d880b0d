# Evaluates the flake in `folder` host by host, against real nixpkgs or against the options of declared.nix.
{
  folder,
  lib, # nixpkgs' library
  nixpkgs ? null, # all of nixpkgs; without it the options are those of declared.nix
  disko ? null, # the sources of disko; without them its devices are only data
  hardware ? null, # the sources of nixos-hardware; without them its modules are names
}:
let
  isReal = nixpkgs != null;

  # What a Raspberry Pi's module does that other modules look at.
  pi = {
    boot.loader.generic-extlinux-compatible.enable = true;
  };
  standIns = {
    common-cpu-amd = { };
    common-cpu-intel-cpu-only = { };
    common-pc-ssd = { };
    raspberry-pi-4 = pi;
    raspberry-pi-5 = pi;
  };
  hardwareModules =
    if isReal && hardware != null then
      {
        common-cpu-amd = hardware + "/common/cpu/amd";
        common-cpu-intel-cpu-only = hardware + "/common/cpu/intel/cpu-only.nix";
        common-pc-ssd = hardware + "/common/pc/ssd";
        raspberry-pi-4 = hardware + "/raspberry-pi/4";
        raspberry-pi-5 = hardware + "/raspberry-pi/5";
      }
    else
      standIns;

  diskoDevices =
    if disko == null then
      lib.types.attrsOf (lib.types.attrsOf lib.types.anything)
    else
      (import (disko + "/lib") {
        inherit lib;
        rootMountPoint = "/mnt";
      }).toplevel;
  diskoModule =
    if isReal && disko != null then
      disko + "/module.nix"
    else
      {
        options.disko.devices = lib.mkOption {
          type = diskoDevices;
          default = { };
        };
      };

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
  };
  packages = lib.genAttrs [
    "curl"
    "dnsutils"
    "ethtool"
    "htop"
    "jq"
    "lvm2"
    "nfs-utils"
    "openiscsi"
  ] package;

  nixosSystem =
    if isReal then
      arguments: import (nixpkgs + "/nixos/lib/eval-config.nix") ({ system = null; } // arguments)
    else
      { specialArgs, modules }:
      lib.evalModules {
        inherit specialArgs;
        modules = modules ++ [
          ./declared.nix
          { _module.args.pkgs = packages; }
        ];
      };

  activate = {
    activate.nixos = nixos: nixos.config.networking.hostName;
  };
  outputs = (import (folder + "/flake.nix")).outputs {
    self = outputs;
    nixpkgs.lib = lib // { inherit nixosSystem; };
    disko.nixosModules.disko = diskoModule;
    nixos-hardware.nixosModules = hardwareModules;
    deploy-rs.lib = {
      x86_64-linux = activate;
      aarch64-linux = activate;
    };
  };

  isOurs = place: lib.hasPrefix (toString folder) (toString place.file);
  isSetByUs = option: builtins.any isOurs (option.definitionsWithLocations or [ ]);
  isSet = path: lib.head path != "_module" && lib.head path != "cluster";

  # Every value is looked at to its depth: types are only checked of what is. What begins with _ is disko's own.
  plain =
    value:
    if builtins.isFunction value then
      "a function"
    else if builtins.isList value then
      map plain value
    else if lib.isDerivation value then
      value.name
    else if builtins.isAttrs value then
      lib.mapAttrs (_: plain) (lib.filterAttrs (name: _: !lib.hasPrefix "_" name) value)
    else
      value;
  look = option: {
    name = lib.showOption option.loc;
    value = plain option.value;
  };
  host =
    _name: nixos:
    let
      ours = builtins.filter (option: isSet option.loc && isSetByUs option) (lib.collect lib.isOption nixos.options);
      failed = builtins.filter (each: !each.assertion) nixos.config.assertions;
    in
    {
      options = if isReal then map (option: lib.showOption option.loc) ours else builtins.listToAttrs (map look ours);
      assertions = map (each: each.message) failed;
      toplevel = if isReal then nixos.config.system.build.toplevel.drvPath else null;
    };
in
{
  hosts = lib.mapAttrs host outputs.nixosConfigurations;
  deploy = lib.mapAttrs (_: node: {
    inherit (node) hostname sshUser user;
    path = if isReal then null else node.profiles.system.path;
  }) outputs.deploy.nodes;
}
