# Who may log in and what they may do there: the deploy user, by key, with the sudo rule that deploy asks for.
{ config, lib, ... }:
let
  inherit (config.cluster) deployUser;
  limits = lib.concatStringsSep "," (
    lib.optional (deployUser.from != [ ]) ''from="${lib.concatStringsSep "," deployUser.from}"''
    ++ [
      "no-agent-forwarding"
      "no-X11-forwarding"
      "no-port-forwarding"
    ]
  );
in
{
  services.openssh = {
    enable = true;
    settings = {
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      PermitRootLogin = "no";
    };
  };

  users.users.${deployUser.name} = {
    isNormalUser = true;
    openssh.authorizedKeys.keys = map (key: "${limits} ${key}") deployUser.keys;
  };

  # A change is one script that runs as root, so a narrower list of commands would only look narrow.
  security.sudo.extraRules = [
    {
      users = [ deployUser.name ];
      commands = [
        {
          command = "ALL";
          options = [ "NOPASSWD" ];
        }
      ];
    }
  ];
}
