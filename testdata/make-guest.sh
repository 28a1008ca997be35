#!/usr/bin/env bash
# Builds the "physical" Debian machines of the boot tests: raw disks as an installer and some years
# of use would leave them, each tied to its hardware on purpose. Root, loop devices, debootstrap.
#
#   testdata/make-guest.sh FOLDER [LAYOUT]...
#
# mbr-ext4   BIOS, one partition; initramfs gzip
# gpt-ext4   UEFI without a fallback loader; initramfs zstd
# gpt-xfs    UEFI, /boot of its own, root on XFS; initramfs lz4
# mbr-lzma   as mbr-ext4; initramfs LZMA, behind which nothing can be put
# mbr-dracut as mbr-ext4; the initramfs is made by dracut
# lvm-two    BIOS, two disks (lvm-two.raw, lvm-two-b.raw): /boot, and a volume group over both with
#            the root on it; a partition of the second disk is /srv
#
# What stands in FOLDER already is kept: the root file system is fetched once.
set -euo pipefail
# Tools of the host, as they are found in the guest too.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
export LVM_SUPPRESS_FD_WARNINGS=1
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- mbr-ext4 gpt-ext4 gpt-xfs

exec 9>"$folder/.lock"
flock 9

loops=() mounts=()
release() {
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount "${mounts[i]}" || umount -l "${mounts[i]}"; done
  for loop in "${loops[@]}"; do losetup -d "$loop"; done
  loops=() mounts=()
}
trap release EXIT

# The directory trees of /proc, /sys and /dev, for programs of the guest.
enter() {
  mount -t proc proc "$1/proc" && mounts+=("$1/proc")
  mount -t sysfs sysfs "$1/sys" && mounts+=("$1/sys")
  mount --bind /dev "$1/dev" && mounts+=("$1/dev")
}

# Installs packages in a tree, without what runs when they are.
add_packages() {
  local root=$1 package
  shift
  mkdir -p "$folder/debs"
  for package; do
    ls "$folder/debs/${package}"_* >/dev/null 2>&1 || (cd "$folder/debs" && apt-get download -qq "$package")
    cp "$folder/debs/${package}"_* "$root/tmp/"
  done
  chroot "$root" sh -c 'dpkg -i /tmp/*.deb >/dev/null && rm /tmp/*.deb'
}

make_base() {
  local root=$folder/base packages
  rm -rf "$root"
  packages=linux-image-amd64,systemd-sysv,udev,kmod,initramfs-tools,zstd,lz4
  packages+=,grub-pc-bin,grub-efi-amd64-bin,grub2-common
  packages+=,openssh-server,iproute2,iputils-ping,dbus,xfsprogs,e2fsprogs
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '!/security|backports/ && /debian/ && !found++')
  debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror"

  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  rm -rf "$root"/usr/share/{doc,man,locale,i18n}
  chroot "$root" passwd -d root
  echo physical > "$root/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 physical\n' > "$root/etc/hosts"
  echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
  mkdir -p "$root/var/lib/dhcp" "$root/var/lib/systemd"
  echo 'lease { fixed-address 10.0.2.99; }' > "$root/var/lib/dhcp/dhclient.lan0.leases"
  head -c 512 /dev/zero | tr '\0' r > "$root/var/lib/systemd/random-seed"

  # The network by the adapter's address, twice.
  cat > "$root/etc/udev/rules.d/70-persistent-net.rules" <<-'RULE'
	SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="52:54:00:aa:bb:01", ATTR{type}=="1", NAME="lan0"
	RULE
  cat > "$root/etc/systemd/network/lan.network" <<-'UNIT'
	[Match]
	MACAddress=52:54:00:aa:bb:01
	Name=lan0

	[Network]
	Address=10.0.2.77/24
	Gateway=10.0.2.2
	UNIT
  chroot "$root" systemctl enable systemd-networkd ssh
  # It would hang up the line in the middle of a fact.
  chroot "$root" systemctl mask serial-getty@ttyS0.service

  # An initramfs for the hardware at hand.
  echo 'MODULES=list' > "$root/etc/initramfs-tools/conf.d/hardware.conf"
  printf '%s\n' ahci sd_mod ext4 xfs crc32c_generic e1000 > "$root/etc/initramfs-tools/modules"

  cat > "$root/usr/local/sbin/facts" <<-'FACTS'
	#!/bin/sh
	for try in 1 2 3 4 5 6 7 8 9 10; do
	  ping -c 1 -W 1 10.0.2.2 >/dev/null 2>&1 && net=up && break
	  sleep 1
	done
	{
	  echo
	  echo "FACT machine-id $(cat /etc/machine-id)"
	  echo "FACT hostname $(hostname)"
	  echo "FACT root $(findmnt -n -o SOURCE /)"
	  echo "FACT srv $(cat /srv/mark 2>/dev/null)"
	  echo "FACT boot-mounts $(findmnt -n -r -o TARGET,SOURCE | grep ^/boot | tr '\n' ';')"
	  echo "FACT network ${net:-down} $(ip -o -4 addr show scope global | awk '{print $2, $4}')"
	  echo "FACT ssh $(systemctl is-active ssh)"
	  ssh-keyscan 127.0.0.1 2>/dev/null | sed 's/^[^ ]*/FACT key/'
	  echo "FACT failed $(systemctl --failed --no-legend --plain | awk '{print $1}' | tr '\n' ' ')"
	  echo "FACT end"
	} > /run/facts
	cat /run/facts > /dev/ttyS0
	systemctl poweroff
	FACTS
  chmod 755 "$root/usr/local/sbin/facts"
  cat > "$root/etc/systemd/system/facts.service" <<-'UNIT'
	[Unit]
	Description=Tells what this machine is
	After=multi-user.target ssh.service systemd-networkd.service
	[Service]
	Type=oneshot
	ExecStart=/usr/local/sbin/facts
	StandardOutput=null
	[Install]
	WantedBy=graphical.target multi-user.target
	UNIT
  # Its own target, so that waiting for multi-user.target is no circle.
  sed -i 's/WantedBy=.*/WantedBy=facts.target/' "$root/etc/systemd/system/facts.service"
  printf '[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\nWants=facts.service\n' \
    > "$root/etc/systemd/system/facts.target"
  chroot "$root" systemctl set-default facts.target
  touch "$root/.whole"
}

# make_disk LAYOUT
make_disk() {
  local layout=$1 image=$folder/$1.raw.new root loop
  rm -f "$image"
  truncate -s 2G "$image"
  root=$folder/mnt-$layout
  mkdir -p "$root"
  local -a parts=() names=()
  local packer=gzip maker=initramfs-tools
  case $layout in
    mbr-*)
      case $layout in
        mbr-lzma) packer=lzma ;;
        mbr-dracut) maker=dracut ;;
      esac
      sfdisk -q "$image" <<< $'label: dos\nlabel-id: 0x1badcafe\nstart=2048, type=83, bootable'
      parts=(2048:4192256:ext4:/) names=(1) ;;
    gpt-ext4)
      packer=zstd
      sfdisk -q "$image" <<< $'label: gpt\nstart=2048, size=204800, type=uefi\nstart=206848, size=3983360, type=linux'
      parts=(206848:3983360:ext4:/ 2048:204800:vfat:/boot/efi) names=(2 1) ;;
    gpt-xfs)
      packer=lz4
      sfdisk -q "$image" <<< $'label: gpt\nstart=2048, size=204800, type=uefi\nstart=206848, size=409600, type=linux\nstart=616448, size=3573760, type=linux'
      parts=(616448:3573760:xfs:/ 206848:409600:ext4:/boot 2048:204800:vfat:/boot/efi) names=(3 2 1) ;;
    lvm-two)
      # The volume group's bytes are put in their places at the end: see split_root.
      rm -f "$image-b" "$image-root"
      truncate -s 1G "$image"
      truncate -s 1600M "$image-b"
      truncate -s 1800M "$image-root"
      sfdisk -q "$image" <<< $'label: dos\nlabel-id: 0x1badcafe\nstart=2048, size=409600, type=83, bootable\nstart=411648, type=8e'
      sfdisk -q "$image-b" <<< $'label: dos\nlabel-id: 0x2badcafe\nstart=2048, size=204800, type=83\nstart=206848, type=8e'
      parts=(0:3686400:ext4:/ 2048:409600:ext4:/boot 2048:204800:ext4:/srv) names=(- 1 1) ;;
  esac

  local fstab='' esp='' boot_id='' i start size kind point device
  for i in "${!parts[@]}"; do
    IFS=: read -r start size kind point <<< "${parts[i]}"
    local on=$image name=/dev/sda${names[i]}
    case $layout$point in
      lvm-two/) on=$image-root name=/dev/mapper/vg0-root ;;
      lvm-two/srv) on=$image-b name=/dev/sdb${names[i]} ;;
    esac
    device=$(losetup -f --show -o $((start * 512)) --sizelimit $((size * 512)) "$on")
    loops+=("$device")
    case $kind in
      ext4) mkfs.ext4 -q -F "$device" ;;
      xfs) mkfs.xfs -q -f "$device" ;;
      vfat) mkfs.vfat -F 32 "$device" >/dev/null ;;
    esac
    fstab+="$name $point $kind defaults 0 $([ "$kind" = ext4 ] && echo 1 || echo 0)"$'\n'
    # Where the kernels are: the last but the ESP.
    [ "$kind" = vfat ] || [ "$point" = /srv ] || boot_id=$(blkid -p -s UUID -o value "$device")
    mkdir -p "$root$point"
    # Not every kernel mounts FAT: it is filled by mtools.
    if [ "$kind" = vfat ]; then esp=$device && continue; fi
    mount -t "$kind" "$device" "$root$point"
    mounts+=("$root$point")
    [ "$point" != / ] || tar -C "$folder/base" --one-file-system -cf - . | tar -C "$root" -xf -
    [ "$point" = / ] || tar -C "$folder/base$point" -cf - . | tar -C "$root$point" -xf -
  done
  rm -f "$root/.whole"
  enter "$root"
  {
    echo '# By the names this machine gives its disk.'
    printf '%s' "$fstab"
  } > "$root/etc/fstab"
  rm -f "$root"/etc/ssh/ssh_host_*
  chroot "$root" ssh-keygen -A >/dev/null
  local version folder_of_boot=/boot root_device=/dev/sda${names[0]} boot_part=${names[0]}
  version=$(cd "$root/lib/modules" && echo *)
  case $layout in
    gpt-xfs) folder_of_boot= boot_part=2 ;;
    mbr-lzma) add_packages "$root" xz-utils ;;
    lvm-two)
      folder_of_boot= boot_part=1 root_device=/dev/mapper/vg0-root
      echo second > "$root/srv/mark"
      add_packages "$root" lvm2 dmsetup dmeventd libaio1 libedit2 libbsd0 libmd0 libdevmapper-event1.02.1 liblvm2cmd2.03
      chroot "$root" systemctl mask lvm2-monitor.service
      ;;
  esac
  if [ "$maker" = dracut ]; then
    chroot "$root" dpkg --force-depends --purge initramfs-tools initramfs-tools-core >/dev/null 2>&1
    rm -rf "$root/boot/initrd.img"*
    # Its settings come first: it makes an initramfs when it is installed.
    mkdir -p "$root/etc/dracut.conf.d"
    printf '%s\n' 'hostonly="yes"' 'hostonly_cmdline="no"' 'compress="gzip"' 'early_microcode="no"' \
      'drivers="ahci sd_mod ext4 crc32c_generic e1000"' > "$root/etc/dracut.conf.d/hardware.conf"
    add_packages "$root" kpartx libdevmapper1.02.1 dmsetup cpio dracut-core dracut
    chroot "$root" dracut --quiet --force "/boot/initrd.img-$version" "$version"
  else
    echo "COMPRESS=$packer" > "$root/etc/initramfs-tools/conf.d/packer.conf"
    chroot "$root" update-initramfs -u -k all >/dev/null
  fi

  # What grub-mkconfig writes with GRUB_DISABLE_UUID, but for the menu's looks.
  mkdir -p "$root/boot/grub"
  cat > "$root/etc/default/grub" <<-GRUB
	GRUB_DEFAULT=0
	GRUB_TIMEOUT=0
	GRUB_CMDLINE_LINUX_DEFAULT=""
	GRUB_CMDLINE_LINUX="root=$root_device systemd.show_status=no console=tty0 console=ttyS0"
	GRUB_DISABLE_LINUX_UUID=true
	GRUB
  local style=gpt
  case $layout in mbr-* | lvm-*) style=msdos ;; esac
  cat > "$root/boot/grub/grub.cfg" <<-GRUB
	set timeout=0
	serial --unit=0 --speed=115200
	terminal_output console serial
	insmod part_$style
	insmod ext2
	insmod xfs
	insmod search_fs_uuid
	search --no-floppy --fs-uuid --set=root $boot_id
	menuentry 'Debian GNU/Linux' {
		linux	$folder_of_boot/vmlinuz-$version root=$root_device ro systemd.show_status=no console=tty0 console=ttyS0
		initrd	$folder_of_boot/initrd.img-$version
	}
	GRUB
  echo "(hd0) /dev/sda" > "$root/boot/grub/device.map"
  install_loader "$layout" "$root" "$image" "$boot_part" "$style" "$folder_of_boot" "$esp" "$boot_id"
  rm -f "$root/var/log/journal"/* "$root/var/log"/*.log
  release
  if [ "$layout" = lvm-two ]; then
    split_root "$image"
    mv "$image-b" "$folder/$layout-b.raw"
  fi
  mv "$image" "$folder/$layout.raw"
}

# Makes a volume group of both disks with one volume, and puts the root's bytes into it: no device
# mapper is needed, since it is known where they stand.
split_root() {
  local image=$1 one two config
  one=$(losetup -f --show -o $((411648 * 512)) "$image") && loops+=("$one")
  two=$(losetup -f --show -o $((206848 * 512)) "$image-b") && loops+=("$two")
  config="devices { scan=\"/dev\" filter=[\"a|^$one\$|\",\"a|^$two\$|\",\"r|.*|\"] use_devicesfile=0"
  config+=" obtain_device_list_from_udev=0 external_device_info_source=\"none\" }"
  config+=" global { activation=0 use_lvmlockd=0 use_lvmpolld=0 event_activation=0 }"
  config+=" activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }"
  pvcreate --config "$config" -ff -y -q --dataalignment 1m "$one" "$two"
  vgcreate --config "$config" -q --physicalextentsize 4M vg0 "$one" "$two"
  lvcreate --config "$config" -q -an -Zn -Wn -y -l 450 -n root vg0 "$one" "$two"
  local start=0 device from count
  while read -r device from count; do
    dd if="$image-root" of="$device" bs=4M iflag=skip_bytes oflag=seek_bytes conv=notrunc,sparse \
      status=none skip=$((start << 22)) count="$count" seek=$(((1 << 20) + (from << 22)))
    start=$((start + count))
  done < <(lvs --config "$config" --noheadings --segments -o seg_pe_ranges vg0/root |
    sed -E 's/^ *([^:]+):([0-9]+)-([0-9]+) *$/\1 \2 \3/' | while read -r d a b; do echo "$d $a $((b - a + 1))"; done)
  [ "$start" = 450 ]
  rm "$image-root"
  release
}

# What grub-install does, without asking which devices there are.
install_loader() {
  local layout=$1 root=$2 image=$3 part=$4 style=$5 prefix=$6/grub esp=$7 boot_id=$8
  if [ "$style" = msdos ]; then
    mkdir -p "$root/boot/grub/i386-pc"
    cp "$root"/usr/lib/grub/i386-pc/*.{mod,lst} "$root/boot/grub/i386-pc/"
    chroot "$root" grub-mkimage -O i386-pc -o /boot/grub/i386-pc/core.img \
      -p "(hd0,$style$part)$prefix" biosdisk part_msdos ext2
    # The first sector of core.img tells where the rest is: right behind, by GRUB's own default.
    dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$image" bs=1 count=440 conv=notrunc status=none
    dd if="$root/boot/grub/i386-pc/core.img" of="$image" bs=512 seek=1 conv=notrunc status=none
  else
    mkdir -p "$root/boot/grub/x86_64-efi"
    cp "$root"/usr/lib/grub/x86_64-efi/*.{mod,lst} "$root/boot/grub/x86_64-efi/"
    printf 'search.fs_uuid %s root\nset prefix=($root)%s\n' "$boot_id" "$prefix" > "$root/boot/grub/load.cfg"
    chroot "$root" grub-mkimage -O x86_64-efi -o /boot/grub/grubx64.efi \
      -c /boot/grub/load.cfg -p "$prefix" part_gpt ext2 xfs fat search_fs_uuid
    mmd -i "$esp" ::/EFI ::/EFI/debian
    mcopy -i "$esp" "$root/boot/grub/grubx64.efi" ::/EFI/debian/grubx64.efi
  fi
}

[ -e "$folder/base/.whole" ] || make_base
for layout; do
  [ -e "$folder/$layout.raw" ] || make_disk "$layout"
done
