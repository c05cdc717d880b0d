# A host's file system, sourced by its first process: a base (the machine's own, or a tree of another Debian) under a
# layer of the host's, with a /nix, /etc, /var, /home, /run, /tmp and /dev of its own. Sets $new; `enter` goes there.
# Needs: $directory, $name, $here.
base=$(cat "$directory/base")
new=$directory/root.new
layers="upperdir=$directory/root.layer,workdir=$directory/root.work"
mkdir -p "$new" "$directory/root.layer" "$directory/root.work" "$directory/etc.work"
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$base,$layers" "$new"
mount -t overlay overlay -o "lowerdir=${base%/}/etc,upperdir=$directory/etc,workdir=$directory/etc.work" "$new/etc"
mkdir -p "$new/nix" "$new/home" "$new/boot"
for each in nix boot var home root; do mount --bind "$directory/$each" "$new/$each"; done
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t tmpfs -o mode=755,size=64m tmpfs "$new/run"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$new/tmp"
mount -t tmpfs -o mode=755,size=1m tmpfs "$new/dev"
for node in null zero full random urandom tty; do
  : >"$new/dev/$node"
  mount --bind "/dev/$node" "$new/dev/$node"
done
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$new/dev/shm"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
: >"$new/dev/console"
mkdir "$new/run/scripts"
mount --bind "$here" "$new/run/scripts"
# A host has no business in the checkout, wherever that lies.
checkout=$(cd "$here/../../.." && pwd)
[ ! -d "$new$checkout" ] || mount -t tmpfs -o mode=755,size=64k tmpfs "$new$checkout"

# Everything of the machine is out of reach after this. What may be done only before it, is.
enter() {
  mkdir "$new/run/old"
  cd "$new"
  pivot_root . run/old
  umount -l /run/old
  rmdir /run/old
  cd /
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export PATH
  hostname "$name"
  mkdir -p /var/lib /var/log /var/tmp
  chmod 1777 /var/tmp
  cat /proc/sys/kernel/random/uuid >/run/boot_id
  mount --bind /proc/sys /proc/sys
  mount -o remount,ro,bind /proc/sys
  mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
  ip link set lo up
}
