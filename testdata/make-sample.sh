#!/usr/bin/env bash
# Rebuilds testdata/sample.vmdk: a streamOptimized VMDK of a 16 MiB disk with an MBR, one partition
# and an ext2 file system with a few files. Needs qemu-img and e2fsprogs; nothing in it depends on
# the day it is made. (qemu-img's output is deterministic but for the content id, which is set.)
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/files"
printf 'This disk was converted by vdisk.\n' > "$work/files/README"
seq 1 20000 > "$work/files/numbers"
find "$work/files" -exec touch -d 2026-01-01T00:00:00Z {} +

truncate -s 15M "$work/part.img"
E2FSPROGS_FAKE_TIME=1767225600 mke2fs -q -t ext2 -d "$work/files" -L vdisk \
  -U 6f1c6c1e-0000-4000-8000-766469736b21 -E hash_seed=6f1c6c1e-0000-4000-8000-766469736b22 \
  "$work/part.img"
truncate -s 16M "$work/disk.img"
dd if="$work/part.img" of="$work/disk.img" bs=1M seek=1 conv=notrunc,sparse status=none
# One Linux partition from sector 2048 of 30720 sectors, and the boot signature.
printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\170\0\0' |
  dd of="$work/disk.img" bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of="$work/disk.img" bs=1 seek=510 conv=notrunc status=none

qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$work/disk.img" "$work/sample.vmdk"
sed -i 's/^CID=[0-9a-f]\{8\}$/CID=766d646b/' "$work/sample.vmdk"
cp "$work/sample.vmdk" sample.vmdk
sha256sum < "$work/disk.img" | sed 's/-/sample.vmdk, virtual content/' > sample.sha256
