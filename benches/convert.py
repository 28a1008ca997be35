#!/usr/bin/env python3
"""Pairs `vdisk convert` against `qemu-img convert` on the same files, in one run.

Makes its own data (seeded: text, random bytes, zero pages and holes, as on a file system), runs
each case several times in turn with qemu-img, lets both sides end only when the output is on the
disk, compares what came out, and prints the medians and their ratio as a Markdown table (or, with
--json, as JSON). Timings on a shared machine are noisy: trust the ratios, not the seconds.

    cargo build --release && benches/convert.py --size 1G --runs 5
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
WORDS = b"the disk of a server holds text and tables and logs and libraries in many small files ".split()


def size_of(text):
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    return int(text[:-1]) << units[text[-1].upper()] if text[-1].upper() in units else int(text)


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
    records = b"".join(rng.randbytes(24) + b"\0" * 40 for _ in range(MIB // 2 // 64))
    return text + records


class Side:
    def __init__(self, command, output):
        self.command, self.output, self.seconds, self.peak = command, output, [], 0

    def run(self):
        for path in outputs(self.output):
            os.remove(path)
        begun = time.perf_counter()
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL)
        for path in outputs(self.output):
            subprocess.run(["sync", "-d", path], check=True)
        self.seconds.append(time.perf_counter() - begun)

    def median(self):
        return statistics.median(self.seconds)


def outputs(path):
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    return [os.path.join(folder, one) for one in os.listdir(folder) if one.startswith(stem)]


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as out:
            out.write("1")
    except OSError:
        pass


FORMATS = {
    "VHD dynamic": ("vhd", [], "vpc", ["-o", "force_size=on"]),
    "VHD fixed": ("vhd", ["-o", "subformat=fixed"], "vpc", ["-o", "subformat=fixed,force_size=on"]),
    "VHDX dynamic": ("vhdx", [], "vhdx", []),
    "VMDK sparse": ("vmdk", [], "vmdk", []),
    "VMDK flat": ("vmdk", ["-o", "subformat=monolithicFlat"], "vmdk", ["-o", "subformat=monolithicFlat"]),
    "streamOptimized": ("vmdk", ["-o", "subformat=streamOptimized"], "vmdk", ["-o", "subformat=streamOptimized"]),
    "raw": ("raw", [], "raw", []),
}


def qemu(args):
    return ["qemu-img", "convert", *args]


def cases(work, vdisk, raw):
    """Name, our command and output, theirs. Each pair reads one and the same file."""
    for name, (ours, our_options, theirs, their_options) in FORMATS.items():
        tag = name.replace(" ", "-")
        a, b = f"{work}/a-{tag}.{ours}", f"{work}/b-{tag}.{ours}"
        # Out-of-order writes are not offered with compression.
        fast = [] if name == "streamOptimized" else ["-W", "-m", "16"]
        yield (
            f"raw to {name}",
            Side([vdisk, "convert", "-f", "raw", "-O", ours, *our_options, raw, a], a),
            Side(qemu([*fast, "-f", "raw", "-O", theirs, *their_options, raw, b]), b),
        )
        if name == "raw":
            continue
        image = f"{work}/image-{tag}.{ours}"
        a, b = f"{work}/a-from-{tag}.img", f"{work}/b-from-{tag}.img"
        prepare = qemu(["-f", "raw", "-O", theirs, *their_options, raw, image])
        yield (
            f"{name} to raw",
            Side([vdisk, "convert", "-O", "raw", image, a], a),
            Side(qemu(["-W", "-m", "16", "-f", theirs, "-O", "raw", image, b]), b),
            prepare,
            image,
        )


def checked(vdisk, raw, output):
    """Both results are the source, says vdisk for one and qemu-img for the other where it can."""
    source = [vdisk, "compare", "-f", "raw", raw]
    form = ["-F", "raw"] if output.endswith(".img") or output.endswith(".raw") else []
    subprocess.run([*source, *form, output], check=True, stdout=subprocess.DEVNULL)


def peak_memory(command, output):
    """Peak resident bytes of one run, from a child's own accounting."""
    for path in outputs(output):
        os.remove(path)
    before = os.fork()
    if before == 0:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        os._exit(min(255, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024 + 1))
    _, status = os.waitpid(before, 0)
    return os.waitstatus_to_exitcode(status)


def copy_range(raw, output):
    """The kernel's own copy of the whole file, and fdatasync: the limit without sharing."""
    code = (
        "import os,sys\n"
        "a=os.open(sys.argv[1],os.O_RDONLY);b=os.open(sys.argv[2],os.O_RDWR|os.O_CREAT|os.O_TRUNC,0o644)\n"
        "n=os.fstat(a).st_size\n"
        "while n: n-=os.copy_file_range(a,b,n)\n"
        "os.fdatasync(b)"
    )
    return Side([sys.executable, "-c", code, raw, output], output)


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--size", type=size_of, default=size_of("1G"), help="virtual size")
    parse.add_argument("--data", type=size_of, help="bytes of data; three quarters of the size")
    parse.add_argument("--runs", type=int, default=5)
    parse.add_argument("--only", help="run the cases whose name contains this")
    parse.add_argument("--dir", help="where to work: the file system that is measured")
    parse.add_argument("--vdisk", default="target/release/vdisk")
    parse.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parse.add_argument("--json", action="store_true")
    args = parse.parse_args()
    work = tempfile.mkdtemp(prefix="vdisk-bench-", dir=args.dir)
    try:
        rows = measure(args, work)
    finally:
        shutil.rmtree(work)
    show(args, rows)


def measure(args, work):
    raw = f"{work}/source.img"
    write_data(raw, args.size, args.data or args.size * 3 // 4, 1)
    rows = []
    for name, ours, theirs, *prepare in cases(work, args.vdisk, raw):
        if args.only and args.only not in name:
            continue
        if prepare:
            subprocess.run(prepare[0], check=True)
        sides = [ours, theirs]
        if name == "raw to raw":
            sides.append(copy_range(raw, f"{work}/c-copy.img"))
        for run in range(args.runs + 1):
            for side in sides if run % 2 else reversed(sides):
                if args.cold:
                    drop_caches()
                side.run()
        for side in sides:
            side.seconds.pop(0)  # warm-up
        checked(args.vdisk, raw, ours.output)
        if not theirs.output.endswith(".vhd"):
            checked(args.vdisk, raw, theirs.output)
        row = {
            "case": name,
            "vdisk": ours.median(),
            "qemu-img": theirs.median(),
            "ratio": theirs.median() / ours.median(),
            "vdisk-mib": sum(os.stat(p).st_blocks * 512 for p in outputs(ours.output)) / MIB,
            "qemu-mib": sum(os.stat(p).st_blocks * 512 for p in outputs(theirs.output)) / MIB,
            "peak-mib": peak_memory(ours.command, ours.output),
        }
        if len(sides) == 3:
            row["copy_file_range"] = sides[2].median()
        rows.append(row)
        print(f"{name}: {row['vdisk']:.2f} s, qemu-img {row['qemu-img']:.2f} s", file=sys.stderr)
        for side in sides:
            for path in outputs(side.output):
                os.remove(path)
        if prepare:
            for path in outputs(prepare[1]):
                os.remove(path)
    return rows


def show(args, rows):
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "peer": version,
        "size": args.size,
        "data": args.data or args.size * 3 // 4,
        "runs": args.runs,
        "cache": "cold" if args.cold else "warm",
    }
    if args.json:
        print(json.dumps({"schema": "vdisk.bench/1", **facts, "cases": rows}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print()
    print("| case | vdisk s | qemu-img s | qemu-img ÷ vdisk | MiB on disk, vdisk / qemu-img | vdisk's peak MiB |")
    print("| --- | --: | --: | --: | --: | --: |")
    for row in rows:
        print(
            f"| {row['case']} | {row['vdisk']:.2f} | {row['qemu-img']:.2f} | {row['ratio']:.2f} "
            f"| {row['vdisk-mib']:.0f} / {row['qemu-mib']:.0f} | {row['peak-mib']} |"
        )
    for row in rows:
        if "copy_file_range" in row:
            print(f"\nOne copy_file_range of the whole file and fdatasync: {row['copy_file_range']:.2f} s")


if __name__ == "__main__":
    main()
