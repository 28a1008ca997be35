"""Gives a mounted NTFS volume the links that every Windows from Vista on has: from names of old to
where things are now, most of them with the drive's letter, and one folder of a cloud, one program
that is an app's, one that is compressed (CompactOS).

windows_links.py ROOT
"""
import os
import struct
import sys

JUNCTION, SYMLINK = 0xA0000003, 0xA000000C
COMPACT, APP, CLOUD = 0x80000017, 0x8000001B, 0x9000001A


def reparse(path, tag, data, folder=True):
    at = os.path.join(root, path)
    if os.path.lexists(at):
        return
    os.makedirs(os.path.dirname(at), exist_ok=True)
    os.mkdir(at) if folder else open(at, "x").close()
    value = struct.pack("<IHH", tag, len(data), 0) + data
    os.setxattr(at, "system.ntfs_reparse_data", value)


def link(path, target, tag=JUNCTION):
    real, shown = ("\\??\\" + target).encode("utf-16-le"), target.encode("utf-16-le")
    ends = b"\0\0" if tag == JUNCTION else b""
    begin = len(real) + len(ends)
    flags = struct.pack("<I", 0) if tag == SYMLINK else b""
    head = struct.pack("<4H", 0, len(real), begin, len(shown)) + flags
    reparse(path, tag, head + real + ends + shown + ends)


root = sys.argv[1]
os.makedirs(os.path.join(root, "ProgramData"), exist_ok=True)
os.makedirs(os.path.join(root, "Users/Default"), exist_ok=True)
link("Documents and Settings", "C:\\Users")
link("ProgramData/Application Data", "C:\\ProgramData")
link("ProgramData/Desktop", "C:\\Users\\Public\\Desktop")
users = sorted(os.listdir(os.path.join(root, "Users")))
link("Users/All Users", "C:\\ProgramData", SYMLINK)
link("Users/Default User", "C:\\Users\\Default")
for user in users:
    home, there = "Users/" + user, "C:\\Users\\" + user
    link(home + "/Application Data", there + "\\AppData\\Roaming")
    link(home + "/Local Settings", there + "\\AppData\\Local")
    link(home + "/My Documents", there + "\\Documents")
    link(home + "/AppData/Local/Application Data", there + "\\AppData\\Local")
    link(home + "/AppData/Local/Packages/Moved", "D:\\WpSystem\\Packages\\Moved")
    reparse(home + "/OneDrive", CLOUD, b"\1\0\0\0" * 4)
    app = b"\3\0\0\0" + "Package\0Id\0C:\\app.exe\0000\0".encode("utf-16-le")
    reparse(home + "/AppData/Local/Microsoft/WindowsApps/app.exe", APP, app, folder=False)
compact = struct.pack("<4I", 1, 2, 1, 0)
reparse("Windows/System32/Tasks/Microsoft/AsItCame", COMPACT, compact, folder=False)
reparse("Users/Default/NTUSER.DAT", COMPACT, compact, folder=False)
