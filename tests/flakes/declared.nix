# The options of NixOS that flakes/cluster sets: type, and the file of nixpkgs that declares each. Kept by hand: those of k3s
# were read there, most others were not yet compared with it, so that a wrong name may stand in both.
# A stand-in for nixpkgs where that cannot be had. It declares what is used and nothing more, and builds nothing.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  declare = type: source: mkOption { inherit type; description = "nixos/modules/${source}"; };
  withDefault =
    default: type: source:
    (declare type source) // { inherit default; };
  switch = withDefault false types.bool;
  list = type: withDefault [ ] (types.listOf type);
  settings = withDefault { } (types.attrsOf types.anything);

  authorizedKeys = {
    options.keys = list types.singleLineStr "services/networking/ssh/sshd.nix";
  };
  user = {
    options = {
      isNormalUser = switch "config/users-groups.nix";
      isSystemUser = switch "config/users-groups.nix";
      extraGroups = list types.str "config/users-groups.nix";
      openssh.authorizedKeys = withDefault { } (types.submodule authorizedKeys) "services/networking/ssh/sshd.nix";
    };
  };
  sudoCommand = {
    options = {
      command = declare types.str "security/sudo.nix";
      options = list (types.enum [
        "NOPASSWD"
        "PASSWD"
        "NOEXEC"
        "EXEC"
        "SETENV"
        "NOSETENV"
        "LOG_INPUT"
        "NOLOG_INPUT"
        "LOG_OUTPUT"
        "NOLOG_OUTPUT"
        "MAIL"
        "NOMAIL"
        "FOLLOW"
        "NOFLLOW"
        "INTERCEPT"
        "NOINTERCEPT"
      ]) "security/sudo.nix";
    };
  };
  sudoRule = {
    options = {
      users = list (types.either types.str types.int) "security/sudo.nix";
      groups = list (types.either types.str types.int) "security/sudo.nix";
      host = withDefault "ALL" types.str "security/sudo.nix";
      runAs = withDefault "ALL:ALL" types.str "security/sudo.nix";
      commands = list (types.either types.str (types.submodule sudoCommand)) "security/sudo.nix";
    };
  };
  etcFile = {
    options = {
      text = withDefault null (types.nullOr types.lines) "system/etc/etc.nix";
      mode = withDefault "symlink" types.str "system/etc/etc.nix";
    };
  };
  fileSystem = {
    options = {
      device = withDefault null (types.nullOr types.nonEmptyStr) "tasks/filesystems.nix";
      fsType = withDefault "auto" types.nonEmptyStr "tasks/filesystems.nix";
      options = withDefault [ "defaults" ] (types.listOf types.nonEmptyStr) "tasks/filesystems.nix";
    };
  };
  assertion = {
    options = {
      assertion = declare types.bool "misc/assertions.nix";
      message = declare types.str "misc/assertions.nix";
    };
  };
  # attrsOf, so that a list of names and one of switches can be merged.
  filesystems = types.coercedTo (types.listOf types.str) (names: lib.genAttrs names (_: true)) (types.attrsOf types.bool);
  number = types.nullOr (types.oneOf [ types.bool types.str types.int ]);
in
{
  options = {
    assertions = list (types.submodule assertion) "misc/assertions.nix";

    boot = {
      initrd.availableKernelModules = list types.str "system/boot/kernel.nix";
      initrd.kernelModules = list types.str "system/boot/kernel.nix";
      kernel.sysctl = withDefault { } (types.submodule { freeformType = types.attrsOf number; }) "config/sysctl.nix";
      kernelModules = list types.str "system/boot/kernel.nix";
      kernelParams = list (types.strMatching ''([^"[:space:]]|"[^"]*")+'') "system/boot/kernel.nix";
      loader = {
        efi.canTouchEfiVariables = switch "system/boot/loader/efi.nix";
        generic-extlinux-compatible.enable = switch "system/boot/loader/generic-extlinux-compatible/default.nix";
        grub.enable = switch "system/boot/loader/grub/grub.nix";
        systemd-boot.configurationLimit =
          withDefault null (types.nullOr types.int) "system/boot/loader/systemd-boot/systemd-boot.nix";
        systemd-boot.enable = switch "system/boot/loader/systemd-boot/systemd-boot.nix";
      };
      supportedFilesystems = withDefault { } filesystems "tasks/filesystems.nix";
      swraid.enable = switch "tasks/swraid.nix";
    };

    environment.etc = withDefault { } (types.attrsOf (types.submodule etcFile)) "system/etc/etc.nix";
    environment.systemPackages = list types.package "config/system-path.nix";
    fileSystems = withDefault { } (types.attrsOf (types.submodule fileSystem)) "tasks/filesystems.nix";
    hardware.enableRedistributableFirmware = switch "hardware/all-firmware.nix";

    networking = {
      firewall = {
        enable = withDefault true types.bool "services/networking/firewall.nix";
        allowedTCPPorts = list types.port "services/networking/firewall.nix";
        allowedUDPPorts = list types.port "services/networking/firewall.nix";
        checkReversePath =
          withDefault true (types.either types.bool (types.enum [ "strict" "loose" ])) "services/networking/firewall.nix";
        trustedInterfaces = list types.str "services/networking/firewall.nix";
      };
      hostName =
        withDefault "nixos" (types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$")
          "tasks/network-interfaces.nix";
    };

    nix = {
      gc = {
        automatic = switch "services/misc/nix-gc.nix";
        dates = withDefault [ "03:15" ] (types.coercedTo types.singleLineStr lib.singleton (types.listOf types.singleLineStr)) "services/misc/nix-gc.nix";
        options = withDefault "" types.singleLineStr "services/misc/nix-gc.nix";
      };
      settings = settings "config/nix.nix";
    };
    nixpkgs.hostPlatform = (declare (types.either types.str types.attrs) "misc/nixpkgs.nix") // {
      apply = lib.systems.elaborate;
    };

    security.sudo.extraRules = list (types.submodule sudoRule) "security/sudo.nix";

    services = {
      journald.extraConfig = withDefault "" types.lines "system/boot/systemd/journald.nix";
      k3s = {
        clusterInit = switch "services/cluster/rancher/k3s.nix";
        enable = switch "services/cluster/rancher/default.nix";
        extraFlags = withDefault [ ] (types.either types.str (types.listOf types.str)) "services/cluster/rancher/default.nix";
        gracefulNodeShutdown = {
          enable = switch "services/cluster/rancher/default.nix";
          shutdownGracePeriod = withDefault "30s" types.nonEmptyStr "services/cluster/rancher/default.nix";
          shutdownGracePeriodCriticalPods = withDefault "10s" types.nonEmptyStr "services/cluster/rancher/default.nix";
        };
        nodeName = withDefault null (types.nullOr types.str) "services/cluster/rancher/default.nix";
        role = withDefault "server" (types.enum [ "server" "agent" ]) "services/cluster/rancher/default.nix";
        serverAddr = withDefault "" types.str "services/cluster/rancher/default.nix";
        tokenFile = withDefault null (types.nullOr types.path) "services/cluster/rancher/default.nix";
      };
      kubernetes = {
        apiserver = {
          advertiseAddress = withDefault null (types.nullOr types.str) "services/cluster/kubernetes/apiserver.nix";
          allowPrivileged = switch "services/cluster/kubernetes/apiserver.nix";
          securePort = withDefault 6443 types.int "services/cluster/kubernetes/apiserver.nix";
        };
        apiserverAddress = withDefault "" types.str "services/cluster/kubernetes/default.nix";
        easyCerts = switch "services/cluster/kubernetes/default.nix";
        flannel.enable = switch "services/cluster/kubernetes/flannel.nix";
        kubelet = {
          cni.configDir = withDefault null (types.nullOr types.path) "services/cluster/kubernetes/kubelet.nix";
          extraConfig = settings "services/cluster/kubernetes/kubelet.nix";
          hostname = withDefault "" types.str "services/cluster/kubernetes/kubelet.nix";
        };
        masterAddress = withDefault "" types.str "services/cluster/kubernetes/default.nix";
        roles = list (types.enum [ "master" "node" ]) "services/cluster/kubernetes/default.nix";
      };
      lvm.enable = withDefault true types.bool "tasks/lvm.nix";
      openiscsi.enable = switch "services/networking/iscsi/initiator.nix";
      openiscsi.name = withDefault null (types.nullOr types.str) "services/networking/iscsi/initiator.nix";
      openssh.enable = switch "services/networking/ssh/sshd.nix";
      openssh.settings = withDefault { } (types.submodule {
        freeformType = types.attrsOf types.anything;
        options = {
          KbdInteractiveAuthentication = withDefault true (types.nullOr types.bool) "services/networking/ssh/sshd.nix";
          PasswordAuthentication = withDefault true (types.nullOr types.bool) "services/networking/ssh/sshd.nix";
          PermitRootLogin = withDefault "prohibit-password" (types.nullOr (types.enum [
            "yes"
            "without-password"
            "prohibit-password"
            "forced-commands-only"
            "no"
          ])) "services/networking/ssh/sshd.nix";
        };
      }) "services/networking/ssh/sshd.nix";
      rpcbind.enable = switch "services/networking/rpcbind.nix";
      timesyncd.enable = withDefault true types.bool "system/boot/timesyncd.nix";
    };

    swapDevices = list (types.submodule { options.device = declare types.nonEmptyStr "config/swap.nix"; }) "config/swap.nix";
    system.stateVersion = declare types.str "misc/version.nix";
    systemd.tmpfiles.rules = list types.str "system/boot/systemd/tmpfiles.nix";
    time.timeZone = withDefault null (types.nullOr types.str) "config/locale.nix";
    users.users = withDefault { } (types.attrsOf (types.submodule user)) "config/users-groups.nix";
    virtualisation.containerd.enable = switch "virtualisation/containerd.nix";
    virtualisation.containerd.settings = settings "virtualisation/containerd.nix";
    zramSwap.enable = switch "config/zram.nix";
  };
}
