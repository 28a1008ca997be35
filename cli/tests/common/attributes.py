# What this machine tells of all paths below a folder, as JSON: see `attributes` in mod.rs.
import fcntl, hashlib, json, os, stat, struct, sys

NTFS = ["acl", "attrib", "attrib_be", "times", "crtime", "reparse_data", "object_id", "dos_name", "ea"]
FAT_IOCTL_GET_ATTRIBUTES = 0x80047210


def extended(path):
    names = os.listxattr(path, follow_symlinks=False)
    found = {os.fsdecode(n): os.getxattr(path, n, follow_symlinks=False).hex() for n in names}
    # ntfs-3g does not list its own.
    for name in ["system.ntfs_" + name for name in NTFS]:
        try:
            found[name] = os.getxattr(path, name, follow_symlinks=False).hex()
        except OSError:
            pass
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
        return os.fsdecode(os.readlink(path)), None, None
    if not stat.S_ISREG(this.st_mode):
        return "", None, None
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
        runs = layout(file.fileno(), this.st_size)
        try:
            fat = fcntl.ioctl(file, FAT_IOCTL_GET_ATTRIBUTES, bytes(4)).hex()
        except OSError:
            fat = None
    return digest, runs, fat


found = {}
for folder, folders, files in os.walk(os.fsencode(sys.argv[1])):
    for name in [b"."] + files + [n for n in folders if os.path.islink(os.path.join(folder, n))]:
        path = os.path.normpath(os.path.join(folder, name))
        this = os.lstat(path)
        digest, runs, fat = content(path, this)
        key = "/" + os.path.relpath(os.fsdecode(path), sys.argv[1])
        found[key] = [
            [this.st_mode, this.st_uid, this.st_gid, this.st_rdev, extended(path), fat],
            [this.st_nlink, this.st_mtime_ns, digest],
            [this.st_ino, this.st_size, this.st_ctime_ns, this.st_blocks, runs],
        ]
# What is no UTF-8 in names stays apart.
text = json.dumps(found, ensure_ascii=True)
sys.stdout.write(text.replace("\\udc", "\\ue0"))
