# What this machine tells of all paths below a folder, as JSON: see `attributes` in mod.rs.
import ctypes, hashlib, json, os, stat, struct, sys

NTFS = [b"acl", b"attrib", b"times", b"reparse_data", b"object_id", b"dos_name", b"ea"]
libc = ctypes.CDLL("libc.so.6")


def extended(path):
    names = os.listxattr(path, follow_symlinks=False)
    found = {os.fsdecode(n): os.getxattr(path, n, follow_symlinks=False).hex() for n in names}
    # ntfs-3g does not list its own, and gives them to those who have room for them at once.
    room = ctypes.create_string_buffer(1 << 16)
    for name in [b"system.ntfs_" + name for name in NTFS]:
        there = libc.lgetxattr(path, name, room, len(room))
        if there >= 0:
            found[name.decode()] = room.raw[:there].hex()
    return found


# Runs of data, as the file system shows them.
def layout(file, size):
    runs, at = [], 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(file, start, os.SEEK_HOLE)
        runs.append([start, at])
    return runs


def content(path, this):
    if stat.S_ISLNK(this.st_mode):
        return os.fsdecode(os.readlink(path)), None
    if not stat.S_ISREG(this.st_mode):
        return "", None
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
        return digest, layout(file.fileno(), this.st_size)


found = {}
for folder, folders, files in os.walk(os.fsencode(sys.argv[1])):
    for name in [b"."] + files + [n for n in folders if os.path.islink(os.path.join(folder, n))]:
        path = os.path.normpath(os.path.join(folder, name))
        this = os.lstat(path)
        digest, runs = content(path, this)
        key = "/" + os.path.relpath(os.fsdecode(path), sys.argv[1])
        found[key] = [
            [this.st_mode, this.st_uid, this.st_gid, this.st_rdev, extended(path)],
            [this.st_nlink, this.st_mtime_ns, digest],
            [this.st_ino, this.st_size, this.st_ctime_ns, this.st_blocks, runs],
        ]
# What is no UTF-8 in names stays apart.
text = json.dumps(found, ensure_ascii=True)
sys.stdout.write(text.replace("\\udc", "\\ue0"))
