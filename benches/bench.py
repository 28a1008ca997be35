#!/usr/bin/env python3
"""Pairs vdisk with qemu-img and with the limits of the machine, on the same files in one run.

Makes its own data (seeded: text, records, random bytes, zero pages and holes, as on a file system),
runs the two sides of each case in turn, lets both end only when the output is on the disk, checks
what came out, and prints medians and their ratio as a Markdown table (with --json, as JSON).
Timings on a shared machine are noisy: trust the ratios, not the seconds.

    cargo build --release && benches/bench.py --size 1G --runs 5
    benches/bench.py --group convert,sparse --only VHDX

Groups: convert, sparse, look (compare, checksum, chains, small commands), share (XFS with reflink;
needs root and mkfs.xfs), free (half-empty file systems with junk in their free space; needs root and
their programs), cold (source not in the page cache; needs root).
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
WORDS = b"the disk of a server holds text and tables and logs and libraries in many small files ".split()


# ---- data


def write_data(path, size, data_bytes, seed):
    """A sparse file of `size` bytes with about `data_bytes` of data in runs."""
    rng = random.Random(seed)
    runs = max(1, data_bytes // (8 * MIB))
    step = size // runs
    with open(path, "wb") as out:
        out.truncate(size)
        for run in range(runs):
            out.seek(run * step // 4096 * 4096)
            for _ in range(min(8 * MIB, data_bytes) // MIB):
                out.write(mebibyte(rng))
    os.sync()


def mebibyte(rng):
    kind = rng.random()
    if kind < 0.35:
        return rng.randbytes(MIB)
    if kind < 0.45:
        return bytes(MIB)
    line = b" ".join(rng.choice(WORDS) + b"%d" % rng.randrange(1000) for _ in range(3000))
    text = (line * (MIB // 2 // len(line) + 1))[: MIB // 2]
    # Half text, half records that differ a little: what deflate meets on a file system.
    return text + b"".join(rng.randbytes(24) + b"\0" * 40 for _ in range(MIB // 2 // 64))


# ---- running


class Side:
    """A command, and the image it writes (if any), which is removed before each run."""

    def __init__(self, command, output=None):
        self.command, self.output, self.seconds = command, output, []

    def run(self, cold=False):
        remove(self.output)
        if cold:
            os.sync()
            with open("/proc/sys/vm/drop_caches", "w") as out:
                out.write("1")
        begun = time.perf_counter()
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL)
        for path in files_of(self.output):
            subprocess.run(["sync", "-d", path], check=True)
        self.seconds.append(time.perf_counter() - begun)

    def peak_mib(self):
        """Most memory of one more run, by GNU time: a child of this program would count it, too."""
        remove(self.output)
        told = subprocess.run(["/usr/bin/time", "-f", "%M", *self.command], capture_output=True, text=True)
        return int(told.stderr.split()[-1]) // 1024

    def median(self):
        return statistics.median(self.seconds[1:])  # the first run warms up


def files_of(image):
    if image is None:
        return []
    folder, name = os.path.split(image)
    stem = os.path.splitext(name)[0]
    return [os.path.join(folder, one) for one in os.listdir(folder) if one.startswith(stem)]


def remove(image):
    for path in files_of(image):
        os.remove(path)


class Case:
    """Two sides to be run in turn. `target` is the least ratio of their time to ours, or, for a
    case without a peer, None."""

    def __init__(self, name, ours, theirs, peer="qemu-img", target=1.0, check=None, cold=False):
        self.name, self.ours, self.theirs, self.peer = name, ours, theirs, peer
        self.target, self.check, self.cold = target, check, cold

    def measure(self, runs):
        sides = [self.ours, self.theirs]
        for run in range(runs + 1):
            for side in sides if run % 2 else reversed(sides):
                side.run(self.cold)
        if self.check:
            subprocess.run(self.check, check=True, stdout=subprocess.DEVNULL)
        ours, theirs = self.ours.median(), self.theirs.median()
        row = {"case": self.name, "vdisk-s": ours, "peer": self.peer, "peer-s": theirs}
        row |= {"ratio": theirs / ours, "target": self.target, "met": theirs / ours >= self.target}
        sizes = [disk_mib(side.output) for side in sides]
        if self.ours.output and self.theirs.output:
            row |= {"mib": sizes[0], "peer-mib": sizes[1]}
        row["peak-mib"] = self.ours.peak_mib()
        for side in sides:
            remove(side.output)
        return row


def disk_mib(image):
    return round(sum(os.stat(path).st_blocks * 512 for path in files_of(image)) / MIB, 1)


# ---- cases

FORMATS = {
    # name: our format and options, qemu-img's, target to and from raw
    "VHD dynamic": ("vhd", [], "vpc", ["-o", "force_size=on"], 1.4, 1.3),
    "VHD fixed": ("vhd", ["-o", "subformat=fixed"], "vpc", ["-o", "subformat=fixed,force_size=on"], 1.4, 1.3),
    "VHDX dynamic": ("vhdx", [], "vhdx", [], 1.4, 1.3),
    "VMDK sparse": ("vmdk", [], "vmdk", [], 2.0, 1.3),
    "VMDK flat": ("vmdk", ["-o", "subformat=monolithicFlat"], "vmdk", ["-o", "subformat=monolithicFlat"], 1.0, 1.0),
    "streamOptimized": ("vmdk", ["-o", "subformat=streamOptimized"], "vmdk", ["-o", "subformat=streamOptimized"], 5.0, 3.0),
    "raw": ("raw", [], "raw", [], 1.0, None),
}


def qemu_convert(*args, fast=True):
    # Out-of-order writes are not offered with compression.
    return ["qemu-img", "convert", *(["-W", "-m", "16"] if fast else []), *args]


def same(bench, image, flags=()):
    raw = image.endswith((".img", ".raw"))
    return [bench.vdisk, "compare", "-f", "raw", *(["-F", "raw"] if raw else []), *flags, bench.raw, image]


def to_format(bench, name, work=None, factor=None, cold=False):
    ours, our_options, theirs, their_options, target, _ = FORMATS[name]
    work = work or bench.work
    raw = os.path.join(work, os.path.basename(bench.raw))
    a, b = f"{work}/to-a.{ours}", f"{work}/to-b.{ours}"
    return Case(
        f"raw to {name}",
        Side([bench.vdisk, "convert", "-f", "raw", "-O", ours, *our_options, raw, a], a),
        Side(qemu_convert("-f", "raw", "-O", theirs, *their_options, raw, b, fast=name != "streamOptimized"), b),
        target=factor or target,
        check=same(bench, a),
        cold=cold,
    )


def from_format(bench, name, image, target, work=None, theirs=None):
    _, _, form, _, _, _ = FORMATS[name]
    work = work or bench.work
    a, b = f"{work}/from-a.img", f"{work}/from-b.img"
    return Case(
        f"{name} to raw",
        Side([bench.vdisk, "convert", "-O", "raw", image, a], a),
        Side(qemu_convert("-f", form, "-O", "raw", theirs or image, b), b),
        target=target,
        check=same(bench, a),
    )


def convert(bench):
    for name, (ours, _, theirs, their_options, _, back) in FORMATS.items():
        yield to_format(bench, name)
        if back:
            image = f"{bench.work}/image.{ours}"
            subprocess.run(qemu_convert("-f", "raw", "-O", theirs, *their_options, bench.raw, image, fast=False), check=True)
            yield from_format(bench, name, image, back)
            remove(image)
    for source, target in [("VMDK sparse", "VHDX dynamic"), ("VHDX dynamic", "VHD dynamic")]:
        ours, _, form, _, _, _ = FORMATS[source]
        to, _, qemu_to, options, _, _ = FORMATS[target]
        image = f"{bench.work}/image.{ours}"
        subprocess.run([bench.vdisk, "convert", "-f", "raw", "-O", ours, bench.raw, image], check=True)
        a, b = f"{bench.work}/x-a.{to}", f"{bench.work}/x-b.{to}"
        yield Case(
            f"{source} to {target}",
            Side([bench.vdisk, "convert", "-O", to, image, a], a),
            Side(qemu_convert("-f", form, "-O", qemu_to, *options, image, b), b),
            check=same(bench, a),
        )
        remove(image)
    a, b = f"{bench.work}/limit-a.vhdx", f"{bench.work}/limit-b.img"
    yield Case(
        "raw to VHDX dynamic, against the kernel's copy",
        Side([bench.vdisk, "convert", "-f", "raw", bench.raw, a], a),
        Side(kernel_copy(bench.raw, b), b),
        peer="copy_file_range + fdatasync",
        target=1 / 0.85,
    )


def kernel_copy(source, target):
    code = (
        "import os,sys\n"
        "a=os.open(sys.argv[1],os.O_RDONLY);b=os.open(sys.argv[2],os.O_RDWR|os.O_CREAT|os.O_TRUNC,0o644)\n"
        "n=os.fstat(a).st_size\n"
        "while n: n-=os.copy_file_range(a,b,n)\n"
        "os.fdatasync(b)"
    )
    return [sys.executable, "-c", code, source, target]


@contextlib.contextmanager
def sparse_disk(bench):
    """The same data, in a disk a hundred times as large."""
    small = bench.raw
    bench.raw = f"{bench.work}/sparse.img"
    try:
        write_data(bench.raw, 100 * bench.size, bench.data, 1)
        yield
    finally:
        remove(bench.raw)
        bench.raw = small


def sparse(bench):
    with sparse_disk(bench):
        for name in ["VHD dynamic", "VHDX dynamic", "VMDK sparse"]:
            case = to_format(bench, name, factor=1.0)
            case.name += f", 1 part data in 100 of {100 * bench.size // MIB} MiB"
            yield case


def look(bench):
    image = f"{bench.work}/image.vhdx"
    subprocess.run([bench.vdisk, "convert", "-f", "raw", bench.raw, image], check=True)
    tree = [bench.vdisk, "checksum", "--algorithm", "tree"]
    sha = [bench.vdisk, "checksum"]
    yield Case(
        "compare raw with VHDX",
        Side([bench.vdisk, "compare", "-f", "raw", bench.raw, image]),
        Side(["qemu-img", "compare", "-f", "raw", "-F", "vhdx", bench.raw, image]),
        target=2.0,
    )
    yield Case("checksum of raw", Side([*sha, "-f", "raw", bench.raw]), Side(["sha256sum", bench.raw]), peer="sha256sum", target=1 / 1.1)
    full = f"{bench.work}/full.img"
    with open(full, "wb") as out:
        rng = random.Random(9)
        for _ in range(bench.data // MIB):
            out.write(rng.randbytes(MIB))
    yield Case(
        "checksum --algorithm tree, full data",
        Side([*tree, "-f", "raw", full]),
        Side([*sha, "-f", "raw", full]),
        peer="vdisk's own sha256",
        target=1.5,
    )
    os.remove(full)
    small = bench.raw
    with sparse_disk(bench):
        yield Case(
            "tree digest, 1 part data in 100",
            Side([*tree, "-f", "raw", bench.raw]),
            Side([*tree, "-f", "raw", small]),
            peer="the data alone",
            target=0.5,
        )
    top = image
    children = [f"{bench.work}/child{n}.vhdx" for n in range(1, 33)]
    for child in children:
        subprocess.run([bench.vdisk, "create", "-f", "vhdx", "-b", top, child], check=True)
        top = child
    yield Case("reading through 32 children", Side([*tree, top]), Side([*tree, image]), peer="a flat image", target=1 / 1.3)
    for child in children:
        os.remove(child)
    empty = f"{bench.work}/empty.vhdx"
    subprocess.run([bench.vdisk, "create", "-f", "vhdx", "-o", "block_size=1M", empty, "64T"], check=True)
    yield Case("info", Side([bench.vdisk, "info", image]), Side(["qemu-img", "info", image]))
    yield Case("map of an empty 64 TiB VHDX", Side([bench.vdisk, "map", empty]), Side(["qemu-img", "info", image]), peer="qemu-img info")
    remove(empty)
    remove(image)


def share(bench):
    """On a file system that shares blocks, a copy takes the time of the metadata."""
    store = f"{bench.work}/xfs.store"
    folder = f"{bench.work}/xfs"
    with open(store, "wb") as out:
        out.truncate(8 * bench.size + (1 << 30))
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", store], check=True)
    os.mkdir(folder)
    subprocess.run(["mount", "-o", "loop", store, folder], check=True)
    try:
        subprocess.run(["cp", "--sparse=always", bench.raw, folder], check=True)
        for name in ["VHD dynamic", "VHD fixed", "VHDX dynamic", "VMDK sparse", "VMDK flat"]:
            case = to_format(bench, name, folder, 10.0)
            case.name += ", XFS"
            yield case
            ours, options, theirs, their_options, _, _ = FORMATS[name]
            image, other = f"{folder}/image.{ours}", f"{folder}/other.{ours}"
            raw = os.path.join(folder, os.path.basename(bench.raw))
            subprocess.run([bench.vdisk, "convert", "-f", "raw", "-O", ours, *options, raw, image], check=True)
            subprocess.run(qemu_convert("-f", "raw", "-O", theirs, *their_options, raw, other), check=True)
            case = from_format(bench, name, image, 10.0, folder, other)
            case.name += ", XFS"
            yield case
            remove(image)
            remove(other)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.remove(store)


def cold(bench):
    for name in ["VHD dynamic", "VHDX dynamic", "VMDK sparse", "raw"]:
        case = to_format(bench, name, factor=1.0, cold=True)
        case.name += ", source not in memory"
        yield case
        case = to_format(bench, name, factor=1.0, cold=True)
        case.name += ", source not in memory, qemu-img past the page cache"
        case.theirs.command[2:2] = ["-T", "none", "-t", "none"]
        yield case


FILE_SYSTEMS = {
    "NTFS": (["mkntfs", "-F", "-q", "-Q"], ["ntfs-3g", "-o"], "rw", "ro"),
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "nodiscard"], ["mount", "-o"], "loop", "loop,ro"),
    "XFS": (["mkfs.xfs", "-q", "-f", "-K"], ["mount", "-o"], "loop", "loop,ro,nouuid"),
}


def free(bench):
    """What no file has is left out; what files hold is the same."""
    for name, (make, mount, writing, reading) in FILE_SYSTEMS.items():
        disk, folder, files = (f"{bench.work}/{one}" for one in ["free.img", "mounted", "files"])
        half_empty(bench, disk, folder, make, [*mount, writing])
        a, b = f"{bench.work}/free-a.vhdx", f"{bench.work}/free-b.vhdx"
        yield Case(
            f"half-empty {name} of {2 * bench.size // MIB} MiB to VHDX, --skip-free",
            Side([bench.vdisk, "-q", "convert", "-f", "raw", "--skip-free", disk, a], a),
            Side(qemu_convert("-f", "raw", "-O", "vhdx", disk, b), b),
            target=2.0,
            check=["sh", "-ec", f"""
                mkdir -p {folder} {files}
                {bench.vdisk} convert {a} {files}.img
                {" ".join(mount)} {reading} {disk} {folder}; {" ".join(mount)} {reading} {files}.img {files}
                diff -r {folder} {files}; umount {folder}; umount {files}; rm {files}.img"""],
        )
        remove(disk)


def half_empty(bench, disk, folder, make, mount):
    rng = random.Random(4)
    with open(disk, "wb") as out:
        for _ in range(2 * bench.size // MIB):
            out.write(rng.randbytes(MIB))
    subprocess.run([*make, disk], check=True)
    os.makedirs(folder, exist_ok=True)
    subprocess.run([*mount, disk, folder], check=True)
    for number in range(bench.size // MIB // 8):
        with open(f"{folder}/file{number}", "wb") as out:
            for _ in range(8):
                out.write(mebibyte(rng))
    subprocess.run(["umount", folder], check=True)
    while subprocess.run(["fuser", "-s", disk], stderr=subprocess.DEVNULL).returncode == 0:
        time.sleep(0.05)  # FUSE lets go of its file a moment later


GROUPS = {"convert": convert, "sparse": sparse, "look": look, "share": share, "free": free, "cold": cold}


# ---- the whole run


class Bench:
    def __init__(self, args, work):
        self.vdisk, self.work = os.path.abspath(args.vdisk), work
        self.size, self.data = args.size, args.data or args.size * 3 // 4
        self.raw = f"{work}/source.img"
        write_data(self.raw, self.size, self.data, 1)


def size_of(text):
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    return int(text[:-1]) << units[text[-1].upper()] if text[-1].upper() in units else int(text)


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--size", type=size_of, default=size_of("1G"), help="virtual size")
    parse.add_argument("--data", type=size_of, help="bytes of data; three quarters of the size")
    parse.add_argument("--runs", type=int, default=5)
    parse.add_argument("--group", default="convert,sparse,look,share,free,cold")
    parse.add_argument("--only", default="", help="run the cases whose name contains this")
    parse.add_argument("--dir", help="where to work: the file system that is measured")
    parse.add_argument("--vdisk", default="target/release/vdisk")
    parse.add_argument("--json", action="store_true")
    args = parse.parse_args()
    work = tempfile.mkdtemp(prefix="vdisk-bench-", dir=args.dir)
    rows = []
    try:
        bench = Bench(args, work)
        for group in args.group.split(","):
            for case in GROUPS[group](bench):
                if args.only not in case.name:
                    continue
                rows.append(case.measure(args.runs))
                print("{case}: {vdisk-s:.3f} s, {peer} {peer-s:.3f} s".format(**rows[-1]), file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    show(args, rows)


def show(args, rows):
    peer = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "peer": peer,
        "size": args.size,
        "data": args.data or args.size * 3 // 4,
        "runs": args.runs,
    }
    if args.json:
        print(json.dumps({"schema": "vdisk.bench/1", **facts, "cases": rows}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print()
    print("| case | vdisk s | peer s | peer ÷ vdisk | target | peak MiB | MiB written, vdisk / peer |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        peer = "" if row["peer"] == "qemu-img" else f" ({row['peer']})"
        sizes = f"{row['mib']} / {row['peer-mib']}" if "mib" in row else ""
        mark = "" if row["met"] else " missed"
        print(
            f"| {row['case']}{peer} | {row['vdisk-s']:.3f} | {row['peer-s']:.3f} | {row['ratio']:.2f} "
            f"| {row['target']:.2f}{mark} | {row['peak-mib']} | {sizes} |"
        )


if __name__ == "__main__":
    main()
