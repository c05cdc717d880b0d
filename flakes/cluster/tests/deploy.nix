# A NixOS test: `deploy` on one virtual machine changes another one, over SSH, with sudo, as this flake sets them up.
#
# It builds two systems and boots them: x86_64 Linux with KVM, several GiB to download, some minutes.
#
#   pip install --target site nixkube-deploy        with the Python that nixpkgs calls python3
#   nix build -L --impure --file tests/deploy.nix --argstr site "$PWD/site"
{
  site,
  flake ? builtins.getFlake (toString ../.),
  system ? "x86_64-linux",
}:
let
  pkgs = flake.inputs.nixpkgs.legacyPackages.${system};
  inherit (pkgs) lib;

  # A key pair for this test only; whoever has it may log in to machines that end with the test.
  keys = pkgs.runCommand "keys" { nativeBuildInputs = [ pkgs.openssh ]; } ''
    mkdir $out && ssh-keygen -q -t ed25519 -N "" -f $out/id_ed25519
  '';

  host = {
    imports = [
      ../modules/options.nix
      ../modules/access.nix
      ../modules/node.nix
    ];
    cluster = {
      name = "test";
      role = "worker";
      address = "host";
      firstHost = "host";
      apiAddress = "host";
      deployUser.keys = [ (lib.fileContents "${keys}/id_ed25519.pub") ];
    };
    system.switch.enable = true;
    networking.hostName = "host";
  };

  # The same machine as it is to become. Its recipe travels, so that the controller can evaluate and build nothing new.
  changed = (
    flake.inputs.nixpkgs.lib.nixosSystem {
      inherit system;
      modules = [
        host
        "${flake.inputs.nixpkgs}/nixos/modules/virtualisation/qemu-vm.nix"
        "${flake.inputs.nixpkgs}/nixos/modules/testing/test-instrumentation.nix"
        { environment.etc."changed".text = "yes"; }
      ];
    }
  );
  inherit (changed.config.system.build) toplevel;
  recipe = builtins.unsafeDiscardOutputDependency toplevel.drvPath;

  fleet = pkgs.writeText "flake.nix" ''
    {
      outputs = _: {
        nixosConfigurations.host = {
          config.system.build.toplevel = import "${recipe}";
          pkgs.system = "${system}";
        };
      };
    }
  '';
  inventory = pkgs.writeText "inventory.yaml" ''
    cluster: {name: test, distribution: none}
    flake: path:/fleet/flake
    evaluation: {impure: true}
    defaults:
      ssh: {user: deploy, identity_file: /fleet/key, host_key_policy: accept-new}
      privilege: sudo
    strategy: {soak: 1s}
    groups: {hosts: {role: worker}}
    hosts: {host: {address: host, groups: [hosts], system: ${system}}}
  '';
in
pkgs.testers.runNixOSTest {
  name = "deploy-changes-a-host";

  nodes = {
    inherit host;
    controller = {
      environment.systemPackages = [
        pkgs.git
        pkgs.openssh
        pkgs.python3
      ];
      nix.settings = {
        experimental-features = [
          "nix-command"
          "flakes"
        ];
        substituters = lib.mkForce [ ];
      };
      virtualisation = {
        additionalPaths = [
          recipe
          toplevel
        ];
        memorySize = 2048;
        writableStore = true;
      };
    };
  };

  testScript = ''
    start_all()
    host.wait_for_unit("sshd.service")
    controller.wait_for_unit("network.target")
    controller.copy_from_host("${site}", "/fleet/site")
    controller.succeed(
        "install -D ${fleet} /fleet/flake/flake.nix",
        "install -m 600 ${keys}/id_ed25519 /fleet/key",
        "install ${inventory} /fleet/inventory.yaml",
    )
    deploy = "cd /fleet && PYTHONPATH=/fleet/site python3 -m nixkube_deploy"

    with subtest("the host is in order"):
        print(controller.succeed(f"{deploy} check --strict"))
    with subtest("the host becomes what its flake says"):
        print(controller.succeed(f"{deploy} apply --yes"))
        host.succeed("test $(cat /etc/changed) = yes")
    with subtest("a second time there is nothing to do"):
        controller.succeed(f"{deploy} plan --detailed-exitcode")
  '';
}
