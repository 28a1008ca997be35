#!/usr/bin/env bash
# Sets up what the tests need and passes all of them: format, lints, documentation, tests. A judge
# that is missing fails the run. Only the corpus of real images may be absent, since a clone of the
# repository does not hold it; then its tests are left out, and the last lines say so.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
PATH="$PWD/target/judges/bin:$PATH"
export PATH

corpus=${VDISK_CORPUS:-$PWD/../shared/corpus}
require=qemu,libvhdi,libvmdk,dissect,strace,hivex,regipy
require+=,sfdisk,sgdisk,blkid,mkfs,lvm,grub
require+=,mke2fs,mkfs.xfs,mkfs.btrfs,mkntfs,ntfs-3g,mkfs.fat,mcopy
require+=,libvirt,powershell
require+=,mkfs.vfat,debugfs,fuser,pvcreate,losetup,lz4,ssh-keygen,cpio
require+=,ddrescuelog,cryptsetup,bdeinfo,efibootmgr,bwrap
if [ -w /dev/loop-control ]; then require+=,loop,boot; fi
if [ -w /dev/fuse ]; then require+=,fuse; fi
if [ -n "${RUNS:-}" ]; then require+=,fuzz; fi
if [ -d "$corpus" ] || [ "${CI:-}" = true ]; then require+=,corpus; fi
export VDISK_REQUIRE=${VDISK_REQUIRE:-$require}

cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet
cargo test --workspace --no-fail-fast
testdata/demo.sh
# Only where a number of runs is asked for: compiling the targets takes longer than running them.
[ -z "${RUNS:-}" ] || ci/fuzz-smoke.sh

[ -d "$corpus" ] || echo "LEFT OUT: the tests on real images; there is no corpus at $corpus (VDISK_CORPUS names another place)"
echo "Required and used: $VDISK_REQUIRE"
