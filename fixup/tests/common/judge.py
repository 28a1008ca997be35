"""What differs between two hives, by hivex: keys and values, as JSON.

judge.py diff BEFORE AFTER        all differences
judge.py mentions HIVE TEXT...    every key and value that has one of the texts in its name or data
judge.py regipy HIVE < questions  reads [[path, name], ...] and answers by regipy
"""
import json
import sys


def walk(name):
    import hivex
    hive = hivex.Hivex(name)
    keys = {}
    todo = [(hive.root(), "")]
    while todo:
        node, path = todo.pop()
        values = {}
        for value in hive.node_values(node):
            kind, data = hive.value_value(value)
            values[hive.value_key(value)] = [kind, data.hex()]
        keys[path] = values
        for child in hive.node_children(node):
            todo.append((child, path + "\\" + hive.node_name(child) if path else hive.node_name(child)))
    return keys


def diff(before, after):
    before, after = walk(before), walk(after)
    changed = []
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path, {}), after.get(path, {})
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                changed.append([path, name or "@", old.get(name), new.get(name)])
    return {
        "values": changed,
        "created": sorted(set(after) - set(before)),
        "deleted": sorted(set(before) - set(after)),
        "keys": len(after),
    }


def mentions(name, texts):
    import uuid
    found = []
    needles = [text.lower() for text in texts]
    binary = [uuid.UUID(text).bytes_le.hex() for text in texts if text.startswith("{")]
    for path, values in walk(name).items():
        if any(needle in path.lower() for needle in needles):
            found.append(path)
        for value, (_, data) in values.items():
            raw = bytes.fromhex(data)
            told = [value] + [raw[at:].decode("utf-16-le", "replace") for at in (0, 1)]
            told = [text.lower() for text in told]
            if any(needle in text for needle in needles for text in told) or any(
                needle in data for needle in binary
            ):
                found.append(path + ": " + value)
    return found


def by_regipy(name):
    from regipy.registry import RegistryHive
    hive = RegistryHive(name)
    answers = []
    for path, value in json.load(sys.stdin):
        key = hive.get_key("\\" + path)
        found = {one.name: one.value for one in key.iter_values(as_json=True)}
        answers.append(found.get("(default)" if value == "@" else value))
    return answers


if sys.argv[1] == "diff":
    print(json.dumps(diff(sys.argv[2], sys.argv[3])))
elif sys.argv[1] == "mentions":
    print(json.dumps(mentions(sys.argv[2], sys.argv[3:])))
else:
    print(json.dumps(by_regipy(sys.argv[2]), default=str))
