"""What differs between two hives, the first of which is read as if one SID were another in it.

exactly.py hivex|regipy BEFORE AFTER [OLD NEW]     OLD, NEW: S-1-5-21-A-B-C

Prints JSON: "values" that differ (path, name, before, after), keys "created" and "deleted", the
"times" of keys that differ, "swapped" (how much of the first hive named OLD), "heads" of both.
"""
import json
import struct
import sys


class Swap:
    """Puts one SID in the place of another, in text, in bytes, and in bytes told as hex."""

    def __init__(self, old=None, new=None):
        self.pairs, self.raw = [], []
        if old is None:
            return
        tails = [old[1:], new[1:]]
        words = [struct.pack("<3I", *map(int, sid.split("-")[4:])) for sid in (old, new)]
        wide = [tail.encode("utf-16-le") for tail in tails]
        narrow = [tail.encode("ascii") for tail in tails]
        self.raw = [words, wide, narrow]
        self.pairs = [tails] + [[side.hex() for side in pair] for pair in self.raw]

    def text(self, text):
        for old, new in self.pairs:
            text = text.replace(old, new)
        return text

    def in_bytes(self, data):
        return any(old in data for old, _ in self.raw)


def by_hivex(name):
    import hivex
    hive = hivex.Hivex(name)
    todo = [(hive.root(), "")]
    while todo:
        node, path = todo.pop()
        values = {}
        for value in hive.node_values(node):
            kind, data = hive.value_value(value)
            values[hive.value_key(value) or "@"] = [kind, data.hex()]
        yield path, hive.node_timestamp(node), values
        for child in hive.node_children(node):
            below = hive.node_name(child)
            todo.append((child, path + "\\" + below if path else below))


def by_regipy(name):
    from regipy.registry import RegistryHive
    hive = RegistryHive(name)

    def told(key):
        found = {}
        for one in key.iter_values(as_json=False, trim_values=False):
            label = "@" if one.name == "(default)" else one.name
            data = one.value.hex() if isinstance(one.value, bytes) else repr(one.value)
            # Data of types that it does not know regipy 6.5 tells in part, or with the rest of the file.
            known = str(one.value_type).startswith("REG_")
            found[label] = [str(one.value_type), data if known else "not told"]
        return found

    todo = [(hive.root, "")]
    while todo:
        key, path = todo.pop()
        values = told(key) if key.values_count else {}
        yield path, key.header.last_modified, values
        if key.subkey_count:
            for child in key.iter_subkeys():
                todo.append((child, path + "\\" + child.name if path else child.name))


def raw(name):
    """The head of a hive file, and what no reader tells: descriptors and classes."""
    data = open(name, "rb").read()
    first, second, time, size = *struct.unpack_from("<IIQ", data, 4), *struct.unpack_from("<I", data, 40)
    total = 0
    for word in struct.unpack_from("<127I", data, 0):
        total ^= word
    total = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)
    sound = total == struct.unpack_from("<I", data, 508)[0]
    head = {"primary": first, "secondary": second, "time": time, "sum": sound, "len": len(data)}
    cells, bin_at, end = [], 4096, 4096 + size
    while bin_at < end:
        assert data[bin_at:bin_at + 4] == b"hbin", bin_at
        bin_end = bin_at + struct.unpack_from("<I", data, bin_at + 8)[0]
        at = bin_at + 32
        while at < bin_end:
            length = struct.unpack_from("<i", data, at)[0]
            if length < 0:
                cells.append(data[at + 4:at - length])
            at += abs(length)
        bin_at = bin_end
    descriptors = [cell for cell in cells if cell[:2] == b"sk"]
    classes = []
    for cell in cells:
        if cell[:2] == b"nk" and cell[74:76] != b"\0\0":
            at = 4096 + struct.unpack_from("<I", cell, 48)[0] + 4
            classes.append(data[at:at + struct.unpack_from("<H", cell, 74)[0]])
    return head, descriptors, classes


def compare(read, before, after, swap):
    swapped = {"keys": 0, "value names": 0, "values": 0}
    old, old_times, touched = {}, {}, set()
    for path, time, values in read(before):
        new_path = swap.text(path)
        named = path.rsplit("\\", 1)[-1]
        if swap.text(named) != named:
            swapped["keys"] += 1
            touched |= {new_path, new_path.rsplit("\\", 1)[0] if "\\" in new_path else ""}
        kept = {}
        for name, (kind, data) in values.items():
            new_name, new_data = swap.text(name), swap.text(data)
            swapped["value names"] += new_name != name
            swapped["values"] += new_data != data
            if new_name != name or new_data != data:
                touched.add(new_path)
            kept[new_name] = [kind, new_data]
        old[new_path], old_times[new_path] = kept, time
    new, new_times = {}, {}
    for path, time, values in read(after):
        new[path], new_times[path] = values, time
    changed = []
    for path in sorted(set(old) | set(new)):
        was, now = old.get(path, {}), new.get(path, {})
        for name in sorted(set(was) | set(now)):
            if was.get(name) != now.get(name):
                changed.append([path, name, was.get(name), now.get(name)])
                touched.add(path)
    created, deleted = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    for path in created + deleted:
        touched |= {path, path.rsplit("\\", 1)[0] if "\\" in path else ""}
    times = {path: time for path, time in new_times.items() if old_times.get(path) != time}
    return {
        "values": changed,
        "created": created,
        "deleted": deleted,
        "touched": sorted(touched & set(new)),
        "times": times,
        "swapped": swapped,
    }


reader, before, after = {"hivex": by_hivex, "regipy": by_regipy}[sys.argv[1]], *sys.argv[2:4]
swap = Swap(*sys.argv[4:6])
found = compare(reader, before, after, swap)
(head, descriptors, classes), (new_head, new_descriptors, new_classes) = raw(before), raw(after)
found["heads"] = [head, new_head]
found["swapped"]["descriptors"] = sum(map(swap.in_bytes, descriptors))
found["swapped"]["classes"] = sum(map(swap.in_bytes, classes))
print(json.dumps(found, default=str))
