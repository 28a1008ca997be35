#!/usr/bin/env bash
# Installs what the tests need beyond Rust: Debian packages, and Python modules in a virtual
# environment under target/. Does nothing where all of it is there. Tells the judges' versions.
#
# No reader of a pipe stops early here: with pipefail that can fail the writer and the setup.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc build-essential
need xz xz-utils
need python3 python3
need vhdiinfo libvhdi-utils
need vmdkinfo libvmdk-utils
need losetup util-linux
need strace strace
need mkfs.xfs xfsprogs
# Makers and judges of partition tables and volumes (parts/tests).
need sfdisk fdisk
need sgdisk gdisk
need blkid util-linux
need mkfs.ntfs ntfs-3g
need mkfs.vfat dosfstools
need mkfs.exfat exfatprogs
need mkfs.ext4 e2fsprogs
need mkfs.btrfs btrfs-progs
need cryptsetup cryptsetup-bin
need mksquashfs squashfs-tools
need genisoimage genisoimage
need pvcreate lvm2
need grub-fstest grub-common
# Makers and judges of file systems (guest/tests).
need mcopy mtools
need fuser psmisc
# A judge of BitLocker volumes (cli/tests).
need bdeinfo libbde-utils
# Judges of definitions (define/tests).
need virt-xml-validate libvirt-clients
need xmllint libxml2-utils
# A judge of maps of bad sectors, and FUSE to make them (p2v/tests).
need ddrescuelog gddrescue
need fusermount3 fuse3
# A judge of firmware's boot entries (cli/tests).
need efibootmgr efibootmgr
# Guests that boot (fixup/tests).
need debootstrap debootstrap
need lz4 lz4
need cpio cpio
# The sandbox for the guests' own tools.
need bwrap bubblewrap
need ssh-keygen openssh-client
[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || missing+=(ovmf)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
/usr/bin/python3 -c "import hivex" 2>/dev/null || missing+=(python3-hivex)
python3 -c 'import sysconfig,os,sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  2>/dev/null || missing+=(python3-dev)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if ! command -v qemu-img >/dev/null || ! command -v qemu-system-x86_64 >/dev/null ||
  ! grep -Eq 'version [1-9][0-9]\.' <<< "$(qemu-img --version)"; then
  # qemu-img before 10 reads the size of some VHDs by their geometry; qemu-system-x86 is of the
  # same version, or one of the two goes.
  if grep -q bookworm /etc/os-release; then
    # The backports stand on the mirror that this machine already uses.
    as_root apt-get update -qq
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '!/security/ && !found++')
    echo "deb $mirror bookworm-backports main" |
      as_root tee /etc/apt/sources.list.d/vdisk-backports.list >/dev/null
    as_root apt-get update -qq
    as_root apt-get install -y -qq -t bookworm-backports qemu-utils qemu-system-x86
  else
    missing+=(qemu-utils qemu-system-x86)
  fi
fi
if [ ${#missing[@]} -gt 0 ]; then
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
fi

venv=target/judges
if ! "$venv/bin/python3" -c 'import pyvhdi, pyvmdk, dissect.hypervisor, regipy, tree_sitter_powershell' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q libvhdi-python libvmdk-python dissect.hypervisor regipy \
    tree-sitter tree-sitter-powershell
fi

qemu-img --version | sed -n 1p
"$venv/bin/python3" -c 'import pyvhdi, pyvmdk; print("pyvhdi", pyvhdi.get_version(), "pyvmdk", pyvmdk.get_version())'
"$venv/bin/pip" list 2>/dev/null | grep '^dissect.hypervisor\|^regipy'
