# A system as NixOS lays it out, from one host's configuration, without nixpkgs: real derivations, harmless programs.
#
# They are built by the static busybox that lies in nixos/busybox/busybox, and run it; where there is none (it is not
# in the repository), by /bin/sh and what it finds in /bin. What a configuration may say is in README.md beside this.
{
  name,
  configuration,
  merge,
}:
let
  release = "25.11";
  system = configuration.system or "x86_64-linux";

  # A folder of its own in the store: busybox knows what to be by the name it is called.
  busybox =
    if builtins.pathExists ./busybox/busybox then
      builtins.path {
        path = ./busybox;
        name = "busybox-static-1.35.0";
      }
    else
      null;
  shell = if busybox == null then "/bin/sh" else "${busybox}/busybox sh";
  sleeper = if busybox == null then "/bin/sleep" else "${busybox}/busybox sleep";

  run =
    label: environment: script:
    derivation (
      environment
      // {
        name = label;
        inherit system;
        builder = if busybox == null then "/bin/sh" else "${busybox}/busybox";
        args = if busybox == null then [ "-ec" ("PATH=/usr/bin:/bin\n" + script) ] else [ "sh" "-ec" script ];
      }
    );

  file = label: path: text: run label { inherit text; } ''
    mkdir -p "$(dirname "$out/${path}")"
    printf %s "$text" >"$out/${path}"
  '';

  # The shell words for a list of links: "target name" lines.
  links = folder: pairs: builtins.concatStringsSep "\n" (map (p: "ln -s ${p.to} \"${folder}/${p.name}\"") pairs);

  baseUnits =
    c:
    let
      follows = c.systemd or "257.9";
    in
    {
      "dbus.service" = c.dbus or "1.16";
      "nix-daemon.service" = "2.28";
      "sshd.service" = "10.2";
      "systemd-journald.service" = follows;
      "systemd-logind.service" = follows;
    };

  systemOf =
    label: c:
    let
      version = c.kernel or "6.12.8";
      sizes = c.sizes or { };
      units = c.units or { };
      packages = c.packages or { };
      files = c.files or { };
      activation = c.activation or { };

      blob = file: size: "dd if=/dev/zero of=\"${file}\" bs=1024 count=${toString (size / 1024)} 2>&1";
      payload = key: file: if sizes ? ${key} then blob file sizes.${key} else ":";

      kernel = run "linux-${version}" { } ''
        mkdir $out
        echo "kernel ${version}" >$out/bzImage
        ${payload "kernel" "$out/bzImage"}
      '';
      modules = file "linux-${version}-modules" "lib/modules/${version}/modules.dep" "";
      initrd = run "initrd-linux-${version}" { inherit kernel modules; } ''
        mkdir $out
        echo "initrd ${c.initrd or "1"}" >$out/initrd
        ${payload "initrd" "$out/initrd"}
      '';
      systemd = file "systemd-${c.systemd or "257.9"}" "lib/systemd/systemd" "systemd ${c.systemd or "257.9"}\n";

      package = key: value: run "${key}-${value}" { } ''
        mkdir -p $out/bin
        printf '#!%s\necho %s %s\n' "${shell}" ${key} ${value} >$out/bin/${key}
        chmod +x $out/bin/${key}
        ${payload key "$out/data"}
      '';
      installed = builtins.attrValues (builtins.mapAttrs package packages);

      # What runs is harmless. `services` may say otherwise: its words replace those of [Service].
      service =
        key: value:
        let
          words = { ExecStart = "${sleeper} 1000000"; } // ((c.services or { }).${key} or { });
          lines = builtins.attrValues (builtins.mapAttrs (k: v: "${k}=${v}") words);
        in
        ''
          [Unit]
          Description=${key} ${value}

          [Service]
          Environment=VERSION=${value}
          ${builtins.concatStringsSep "\n" lines}
        '';
      unit = key: value: {
        name = key;
        to = "${file "unit-${key}" key (service key value)}/${key}";
      };
      allUnits = builtins.attrValues (builtins.mapAttrs unit (baseUnits c // units));
      systemUnits = run "system-units" { } ''
        mkdir $out
        ${links "$out" allUnits}
      '';

      etcFile = key: text: {
        name = key;
        to = "${file (builtins.replaceStrings [ "/" ] [ "-" ] "etc-${key}") "file" text}/file";
      };
      etcFiles = builtins.attrValues (builtins.mapAttrs etcFile ({ hostname = "${name}\n"; } // files));
      etc = run "etc" { } ''
        mkdir -p $out/etc/systemd
        ln -s ${systemUnits} $out/etc/systemd/system
        ${builtins.concatStringsSep "\n" (
          map (p: "mkdir -p \"$(dirname \"$out/etc/${p.name}\")\"\nln -s ${p.to} \"$out/etc/${p.name}\"") etcFiles
        )}
      '';

      # NixOS has its programs here; these hosts have them where their distribution put them.
      theirs = "bash nix nix-env nix-store nix-daemon nix-collect-garbage systemctl systemd-run journalctl flock pkill";
      path = run "system-path" { inherit installed; } ''
        mkdir -p $out/bin
        for program in ${theirs}; do ln -s /usr/bin/$program $out/bin/$program; done
        ${if busybox == null then "ln -s /bin/sh $out/bin/sh" else "${busybox}/busybox --install -s $out/bin"}
        for each in $installed; do for program in $each/bin/*; do ln -sf $program $out/bin/; done; done
      '';

      special = builtins.attrValues (
        builtins.mapAttrs (key: change: {
          name = key;
          to = systemOf "${label}-${key}" (merge (builtins.removeAttrs c [ "specialisation" ]) change);
        }) (c.specialisation or { })
      );

      script = key: {
        name = key;
        source = ./. + "/${key}.sh";
      };
    in
    run "nixos-system-${label}-${release}" {
      activate = ./activate.sh;
      switch = ./switch-to-configuration.sh;
      params = builtins.concatStringsSep " " (c.kernelParams or [ ]);
      interface = c.initInterface or "systemd 2";
      inhibitors = c.inhibitors or "";
      managed = builtins.concatStringsSep "\n" (builtins.attrNames units);
      plan = ''
        action_exit=${toString (activation.exit or 0)}
        action_check=${toString (activation.check or 0)}
        action_loader=${toString (activation.loader or 0)}
        action_before=${quote (activation.before or "")}
        action_run=${quote (activation.run or "")}
      '';
    } ''
      mkdir -p $out/bin $out/specialisation
      ln -s ${kernel}/bzImage $out/kernel
      ln -s ${modules} $out/kernel-modules
      ln -s ${initrd}/initrd $out/initrd
      ln -s ${systemd} $out/systemd
      ln -s ${etc}/etc $out/etc
      ln -s ${path} $out/sw
      printf %s "$params" >$out/kernel-params
      printf %s "$interface" >$out/init-interface-version
      printf %s "$inhibitors" >$out/switch-inhibitors
      printf %s "${release}" >$out/nixos-version
      printf %s "${system}" >$out/system
      printf '%s\n' "$managed" >$out/managed-units
      printf '%s\n' "$plan" >$out/activation
      for name in activate switch; do
        eval "source=\$$name"
        sed -e "s|@shell@|${shell}|g" -e "s|@out@|$out|g" "$source" >$out/bin/$name
        chmod +x $out/bin/$name
      done
      mv $out/bin/activate $out/activate
      mv $out/bin/switch $out/bin/switch-to-configuration
      ${links "$out/specialisation" special}
    '';

  # As lib.escapeShellArg.
  quote = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'";
in
{
  toplevel = systemOf name configuration;

  # Takes the place of partitioning: the "disk" is a folder that is mounted.
  diskoScript = run "disko-${name}" { } ''
    printf '#!%s\nset -e\nmkdir -p /mnt /disk\nmount --bind /disk /mnt\nmkdir -p /mnt/nix\n' "${shell}" >$out
    chmod +x $out
  '';
}
