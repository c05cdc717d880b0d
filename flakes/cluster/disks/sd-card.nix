# A Raspberry Pi that was written as an image (nixos-25.11 sd-image-aarch64): nothing is partitioned, nothing wiped.
{
  fileSystems."/" = {
    device = "/dev/disk/by-label/NIXOS_SD";
    fsType = "ext4";
    options = [ "noatime" ]; # cards wear out by writing
  };
}
