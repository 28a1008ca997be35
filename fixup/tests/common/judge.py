"""What differs between two hives, by hivex: keys and values, as JSON.

judge.py diff BEFORE AFTER        all differences
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
else:
    print(json.dumps(by_regipy(sys.argv[2]), default=str))
