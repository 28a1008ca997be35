#!/usr/bin/env bash
# Builds a disk like that of a Windows machine, to measure `vdisk inspect` on: 10 GiB, GPT, an EFI
# system partition and an NTFS with tens of thousands of files, a large System32, and the registry
# hives of the corpus. Root, FUSE, mkntfs; a minute or two.
#
#   testdata/make-windows.sh CORPUS DISK
set -euo pipefail
export LC_ALL=C
corpus=$1 disk=$2
mib=1048576
point=$(mktemp -d)
loop=
release() {
  ! mountpoint -q "$point" || umount "$point"
  [ -z "$loop" ] || losetup -d "$loop"
  rmdir "$point"
}
trap release EXIT

rm -f "$disk"
truncate -s 10G "$disk"
sfdisk -q "$disk" <<'TABLE'
label: gpt
label-id: AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE
start=2048, size=204800, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=206848, size=32768, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE
start=239616, size=20729856, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
TABLE
esp=$disk.esp
truncate -s 100M "$esp"
mkfs.vfat -F 32 -s 1 -n SYSTEM "$esp" > /dev/null
for folder in EFI EFI/Microsoft EFI/Microsoft/Boot EFI/Boot; do mmd -i "$esp" "::/$folder"; done
printf MZ | mcopy -i "$esp" - ::/EFI/Microsoft/Boot/bootmgfw.efi
printf MZ | mcopy -i "$esp" - ::/EFI/Boot/bootx64.efi
dd if="$esp" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
rm "$esp"

loop=$(losetup --find --show --offset $((117 * mib)) --sizelimit $((10122 * mib)) "$disk")
mkntfs -q -F -Q -p 239616 -H 255 -S 63 -L Windows "$loop"
ntfs-3g "$loop" "$point"

/usr/bin/python3 - "$point" <<'FILES'
import os, sys

root = sys.argv[1]
system = os.path.join(root, "Windows/System32")
for folder in ("drivers", "config", "en-US"):
    os.makedirs(os.path.join(system, folder))
small = lambda path, number: open(path, "wb").write(b"MZ" + b"%d" % number * (number % 300))
# Files between, so that the index of System32 grows in many pieces.
for number in range(4500):
    name = "api-ms-win-core-some-long-name-of-a-library-%d-%d.dll" % (number * 7919 % 4500, number)
    small(os.path.join(system, name), number)
    if number % 12 == 0:
        store = os.path.join(root, "Windows/WinSxS/amd64_component_31bf3856ad364e35_10.0.%d_none" % number)
        os.makedirs(store)
        for part in range(60):
            small(os.path.join(store, "part-%d.dll" % part), part + number)
for number in range(450):
    small(os.path.join(system, "drivers", "driver%d.sys" % number), number)
for number in range(12000):
    folder = os.path.join(root, "Users/alice/AppData/Local/cache", str(number // 200))
    os.makedirs(folder, exist_ok=True)
    small(os.path.join(folder, "entry-%d" % number), number)
kernel = bytearray(4096)
kernel[0x3C] = 0x80
kernel[0x80:0x86] = b"PE\0\0\x64\x86"
open(os.path.join(system, "ntoskrnl.exe"), "wb").write(kernel)
FILES
/usr/bin/python3 "$(dirname "$0")/../testkit/src/windows_links.py" "$point"

config=$point/Windows/System32/config
xz --no-sparse -dc "$corpus/hive_SOFTWARE_win7sp1_plaso.hive.xz" > "$config/SOFTWARE"
xz --no-sparse -dc "$corpus/hive_SYSTEM_win7sp1_plaso.hive.xz" > "$config/SYSTEM"
xz --no-sparse -dc "$corpus/hive_SAM_win7_plaso.hive.xz" > "$config/SAM"
xz --no-sparse -dc "$corpus/hive_SECURITY_dfwinreg.hive.xz" > "$config/SECURITY"
find "$point" | wc -l
