"""Prints all of a hive as somebody else reads it, in the form of common/dump.rs.

judge.py hivex|regipy HIVE

hivex tells keys (K) and values (V); regipy class names (C) and security descriptors (S) too.
"""

import sys


def escape(units):
    def one(unit):
        return chr(unit) if 0x20 <= unit < 0x7F and unit not in b"%\\" else f"%{unit:04X}"

    return "".join(map(one, units))


def units(text):
    raw = text.encode("utf-16-le", "surrogatepass")
    return [raw[at] | raw[at + 1] << 8 for at in range(0, len(raw), 2)]


def raw_units(raw, narrow):
    return list(raw) if narrow else units(raw.decode("utf-16-le", "surrogatepass"))


def by_hivex(path):
    import hivex

    hive = hivex.Hivex(path)

    def visit(node, above):
        here = above + [escape(units(hive.node_name(node)))]
        print("K", "\\".join(here), hive.node_timestamp(node), sep="\t")
        for value in hive.node_values(node):
            kind, data = hive.value_value(value)
            name = escape(units(hive.value_key(value)))
            print("V", name, kind & 0xFFFFFFFF, data.hex(), sep="\t")
        for child in hive.node_children(node):
            visit(child, here)

    visit(hive.root(), [])


def by_regipy(path):
    from regipy.registry import NKRecord, RegistryHive
    from regipy.structs import SECURITY_KEY_v1_1, VALUE_KEY

    hive = RegistryHive(path)
    stream = hive._stream

    def values(key):
        stream.seek(4096 + 4 + key.header.values_list_offset)
        places = stream.read(4 * key.values_count)
        for at in range(0, len(places), 4):
            stream.seek(4096 + 4 + int.from_bytes(places[at : at + 4], "little"))
            value = VALUE_KEY.parse_stream(stream)
            size = value.data_size
            if size >= 0x80000000:
                data = value.data_offset.to_bytes(4, "little")[: size - 0x80000000]
            else:
                record = NKRecord.read_value(value, stream)
                data = record.value
                if size > 0x3FD8 and data[:2] == b"db":
                    data = NKRecord._parse_indirect_block(stream, record)
            name = escape(raw_units(value.name, value.flags.VALUE_COMP_NAME)) if value.name_size else ""
            print("V", name, int(value.data_type), data.hex(), sep="\t")

    def visit(key, above):
        header = key.header
        here = above + [escape(raw_units(header.key_name_string, header.flags.KEY_COMP_NAME))]
        print("K", "\\".join(here), header.last_modified, sep="\t")
        if header.class_name_size:
            stream.seek(4096 + 4 + header.class_name_offset)
            print("C", stream.read(header.class_name_size).hex(), sep="\t")
        if header.security_key_offset != 0xFFFFFFFF:
            stream.seek(4096 + header.security_key_offset)
            security = SECURITY_KEY_v1_1.parse_stream(stream)
            print("S", bytes(security.security_descriptor).hex(), sep="\t")
        if key.values_count:
            values(key)
        for child in list(key.iter_subkeys()):
            visit(child, here)

    visit(hive.root, [])


sys.setrecursionlimit(10000)
sys.stdout.reconfigure(encoding="ascii")
{"hivex": by_hivex, "regipy": by_regipy}[sys.argv[1]](sys.argv[2])
