#!/bin/sh
# Runs a program in a tree of another Debian; of this machine it sees devices, and the folder it works in.
# usage: inside.sh TREE FOLDER PROGRAM...
set -eu
tree=$1 folder=$2
shift 2
# shellcheck disable=SC2016
exec unshare --mount --propagation private sh -euc '
  tree=$1 folder=$2
  shift 2
  mount -t proc proc "$tree/proc"
  mount --rbind /dev "$tree/dev"
  mount -t tmpfs tmpfs "$tree/mnt"
  mkdir "$tree/mnt/vm"
  mount --bind "$folder" "$tree/mnt/vm"
  exec chroot "$tree" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' inside "$tree" "$folder" "$@"
