# Gives files what their file system keeps beside content: owners, modes, times, extended
# attributes, ACLs, hard links, holes, streams, reparse points.
import os, struct, sys

kind, root = sys.argv[1:]
at = lambda name: os.path.join(root, name)
os.utime(at("big.bin"), ns=(981173106789000000, 981173106788000000))

with open(at("holes"), "wb") as file:
    file.truncate(3_000_000)
    for place in (0, 1_000_000, 2_500_000):
        file.seek(place)
        file.write(b"between holes" * 1000)

if kind in ("ext4", "xfs"):
    os.chown(at("medium.bin"), 1000, 50)
    os.chmod(at("medium.bin"), 0o4751)
    os.chmod(at("deep"), 0o1777)
    os.link(at("small.txt"), at("again.txt"))
    os.setxattr(at("empty"), "user.colour", b"blue" * 100)
    os.setxattr(at("empty"), "trusted.note", b"\0\1\2" * 50)
    os.setxattr(at("deep"), "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(at("big.bin"), "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    # Version 2: owner rw-, user 1001 r--, group ---, mask r--, others ---.
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1001), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
    os.setxattr(at("small.txt"), "system.posix_acl_access", acl)
    os.setxattr(at("deep"), "system.posix_acl_default", acl)
    # Space that was reserved and never written.
    with open(at("reserved"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 500_000)

if kind == "ntfs":
    os.chown(at("medium.bin"), 1000, 50)
    os.chmod(at("medium.bin"), 0o640)
    os.chmod(at("deep"), 0o711)
    os.link(at("small.txt"), at("again.txt"))
    # Streams, small and large.
    os.setxattr(at("small.txt"), "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.setxattr(at("medium.bin"), "user.large", bytes(range(256)) * 200)
    # Read-only, hidden, archive.
    os.setxattr(at("empty"), "system.ntfs_attrib", struct.pack("<I", 0x23))
    os.setxattr(at("big.bin"), "system.ntfs_times", struct.pack("<3Q", *[130_000_000_000_000_000 + n for n in range(3)]))
    os.setxattr(at("deep"), "system.ntfs_object_id", bytes(range(16)))
    # A junction to C:\\Windows.
    os.mkdir(at("junction"))
    name = lambda text: text.encode("utf-16-le")
    full, short = name("\\??\\C:\\Windows"), name("C:\\Windows")
    names = full + b"\0\0" + short + b"\0\0"
    data = struct.pack("<4H", 0, len(full), len(full) + 2, len(short)) + names
    reparse = struct.pack("<IHH", 0xA0000003, len(data), 0) + data
    os.setxattr(at("junction"), "system.ntfs_reparse_data", reparse)
