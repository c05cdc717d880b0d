# What Cilium needs of a host. Its pods cannot load modules themselves: NixOS has no /lib/modules.
{ config, lib, ... }:
{
  config = lib.mkIf config.cluster.cilium.enable {
    boot.kernelModules = [
      # the datapath
      "cls_bpf"
      "sch_ingress"
      "sch_fq"
      "vxlan"
      "geneve"
      "algif_hash"
      # masquerading and policies on layer 7
      "ip_set"
      "ip_set_hash_ip"
      "xt_set"
      "xt_comment"
      "xt_mark"
      "xt_CT"
      "xt_TPROXY"
      "xt_socket"
      # iptables, which Cilium asks for at its start
      "ip_tables"
      "iptable_filter"
      "iptable_mangle"
      "iptable_nat"
      "iptable_raw"
      "ip6_tables"
      "ip6table_filter"
      "ip6table_mangle"
      "ip6table_nat"
      "ip6table_raw"
    ];

    # Answers of pods come in by another interface than questions go out by.
    networking.firewall.checkReversePath = false;
    boot.kernel.sysctl = {
      "net.ipv4.conf.all.rp_filter" = 0;
      "net.ipv4.conf.default.rp_filter" = 0;
    };

    networking.firewall.allowedTCPPorts = [ 4240 ]; # health of the agents
    networking.firewall.allowedUDPPorts = [
      8472 # VXLAN
      6081 # Geneve
      51871 # WireGuard, where encryption is on
    ];
  };
}
