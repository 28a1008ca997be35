# Reads facts of a Windows from a hive by hivex and prints them as JSON, for windows.rs to compare.
import json, struct, sys
import hivex

kind, path = sys.argv[1:]
hive = hivex.Hivex(path)


def key(*names, start=None):
    at = hive.root() if start is None else start
    for name in names:
        if at is not None:
            at = hive.node_get_child(at, name)
    return at


def value(at, name):
    if at is None:
        return None
    for one in hive.node_values(at):
        if hive.value_key(one).lower() == name.lower():
            return hive.value_value(one)
    return None


def texts(at, name):
    found = value(at, name)
    if not found or found[0] not in (1, 2, 7):
        return []
    raw = found[1]
    units = raw[: len(raw) // 2 * 2].decode("utf-16-le", "replace").split("\0")
    parts = []
    for unit in units if found[0] == 7 else units[:1]:
        if not unit:
            break
        parts.append(unit.strip())
    return parts


def text(at, name):
    return (texts(at, name) + [None])[0]


def number(at, name):
    found = value(at, name)
    return struct.unpack("<I", found[1])[0] if found and found[0] == 4 else None


def sid(raw):
    if len(raw) < 8:
        return None
    authority = int.from_bytes(raw[2:8], "big")
    parts = struct.unpack("<%dI" % raw[1], raw[8:])
    return "-".join(map(str, ("S", 1, authority) + parts))


def without_none(pairs):
    return {name: found for name, found in pairs.items() if found is not None}


def system():
    control_set = key("ControlSet%03d" % number(key("Select"), "Current"))
    at = lambda *names: key(*names, start=control_set)
    boot, tcpip = [], at("Services", "Tcpip", "Parameters")
    for one in hive.node_children(at("Services")):
        start = number(one, "Start")
        over = number(key("StartOverride", start=one), "0")
        if start == 0 and over in (None, 0) and number(one, "Type") in (1, 2):
            boot.append(hive.node_name(one))
    net = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
    adapters = {}
    for one in hive.node_children(at("Control", "Class", net)):
        if text(one, "NetCfgInstanceId"):
            adapters.setdefault(text(one, "NetCfgInstanceId").lower(), text(one, "DriverDesc"))
    interfaces = []
    for one in hive.node_children(key("Interfaces", start=tcpip)):
        name = hive.node_name(one)
        connection = at("Control", "Network", net, name, "Connection")
        if connection is None:
            continue
        dhcp = number(one, "EnableDHCP")
        addresses = texts(one, "DhcpIPAddress" if dhcp else "IPAddress")
        addresses = [one for one in addresses if one != "0.0.0.0"]
        interfaces.append(without_none({
            "id": name,
            "name": text(connection, "Name"),
            "adapter": adapters.get(name.lower()),
            "dhcp": None if dhcp is None else bool(dhcp),
            "addresses": addresses or None,
        }))
    hardware = key("HardwareConfig")
    if hardware is not None:
        config = key(text(hardware, "LastConfig"), start=hardware)
        hardware = "%s %s" % (text(config, "SystemManufacturer"), text(config, "SystemProductName"))
    disk = at("Control", "Class", "{4D36E967-E325-11CE-BFC1-08002BE10318}")
    fast = number(at("Control", "Session Manager", "Power"), "HiberbootEnabled")
    return {
        "hostname": text(tcpip, "NV Hostname"),
        "time-zone": text(at("Control", "TimeZoneInformation"), "TimeZoneKeyName"),
        "role": {"WinNT": "workstation", "ServerNT": "server", "LanmanNT": "domain-controller"}[
            text(at("Control", "ProductOptions"), "ProductType")
        ],
        "fast-startup": None if fast is None else bool(fast),
        "hardware": hardware,
        "boot": boot,
        "interfaces": interfaces,
        "disk-filters": {
            "class": "disk",
            "upper": texts(disk, "UpperFilters"),
            "lower": texts(disk, "LowerFilters"),
        },
    }


def software():
    current = key("Microsoft", "Windows NT", "CurrentVersion")
    build = text(current, "CurrentBuildNumber")
    return {
        "product": text(current, "ProductName"),
        "version": "%s.%s" % (text(current, "CurrentVersion"), build),
        "machine-guid": text(key("Microsoft", "Cryptography"), "MachineGuid"),
        "edition": text(current, "EditionID"),
        "build": int(build),
        "service-pack": text(current, "CSDVersion"),
        "installation-type": text(current, "InstallationType"),
    }


def sam():
    return sid(value(key("SAM", "Domains", "Account"), "V")[1][-24:])


def security():
    data = lambda name: value(key("Policy", name), "")[1]
    counted = lambda raw: raw[8 : 8 + raw[0]].decode("utf-16-le") if len(raw) > 8 else None
    domain = sid(data("PolPrDmS"))
    return {
        "sid": sid(data("PolAcDmS")),
        "domain": without_none({
            "joined": domain is not None,
            "name": counted(data("PolPrDmN")),
            "dns-name": counted(data("PolDnDDN")),
            "sid": domain,
        }),
    }


print(json.dumps({"system": system, "software": software, "sam": sam, "security": security}[kind]()))
