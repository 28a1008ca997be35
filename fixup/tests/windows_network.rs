//! Network adapters, media and other devices of the old machine go, or stay without what would
//! stand in the new ones' way; their settings wait for the first start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use common::{
    Registry, Spec, X64, assert_exactly, assert_ntfs_sound, cat, machine, mentions, partition,
    software, windows, write_out,
};
use vdisk::{Format, OpenOptions};
use vdisk_fixup::{Identity, KeepNetwork, Machine, Plan, Report, StripOptions, apply, strip, undo};
use vdisk_hive::ValueKind;
use vdisk_testkit::tools::{Tool, arg, must, sha256_file};

const CONFIG: &str = "/Windows/System32/config";
const POWERSHELL: &str = "Windows/System32/WindowsPowerShell/v1.0/powershell.exe";
const SYSPREP: &str = "Windows/System32/Sysprep/sysprep.exe";
const SCRIPT: &str = "/Windows/vdisk/firstboot.ps1";
const SET: &str = "ControlSet001";
const NET: &str = "{4d36e972-e325-11ce-bfc1-08002be10318}";

/// The card of the Windows 10 of the corpus, and where it hangs.
const CARD: &str = "{C43669B3-AB3E-4D0E-8FDE-69579925A20F}";
const PLACE: &str = "PCI\\VEN_8086&DEV_10D3&SUBSYS_07D015AD&REV_00\\000C29FFFF661AA200";
/// The cards of the Windows 7.
const OLD: &str = "{6AAFC9A9-0542-4DB2-8760-CCFFA953737C}";
const LATER: &str = "{698E50A9-4F58-4D86-B61D-F42E58DCACF6}";

const KEEP: StripOptions = StripOptions {
    identity: Identity::Keep,
    keep: std::collections::BTreeSet::new(),
    hostname: None,
    keep_network: KeepNetwork::No,
    purge_ghosts: false,
    force: false,
};

fn stripped(disk: &Path, options: &StripOptions) -> (Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    strip(&mut machine, options, &mut plan).unwrap();
    (machine, plan)
}

/// Actions by the beginning of their rule.
fn by<'p>(plan: &'p Plan, id: &str) -> Vec<&'p str> {
    let all = plan.actions.iter().filter(|one| one.id.starts_with(id));
    all.map(|one| one.place.as_str()).collect()
}

fn warned(plan: &Plan, id: &str) -> Vec<String> {
    let all = plan.warnings.iter().filter(|one| one.id == id);
    all.map(|one| one.message.clone()).collect()
}

/// The hive `name` of a disk.
fn hive(folder: &Path, disk: &Path, root: usize, name: &str) -> PathBuf {
    let volume = folder.join("volume");
    partition(disk, root, &volume);
    let path = folder.join(format!("{name}-{}", disk.file_stem().unwrap().display()));
    cat(&volume, &format!("{CONFIG}/{name}"), &path);
    path
}

/// Carries a plan out in a copy of `disk`. hivex, regipy and ntfs-3g see what it says, and nothing
/// else; a second run plans nothing; the way back leads back.
fn judged(folder: &Path, disk: &Path, options: &StripOptions, root: usize) -> (PathBuf, Plan) {
    let after = folder.join("after.raw");
    fs::copy(disk, &after).unwrap();
    let before = sha256_file(&after);
    let open = OpenOptions::new().format(Format::Raw).in_one_session();
    let mut machine = Machine::open(std::sync::Arc::new(open.open(&after).unwrap()), 512).unwrap();
    let mut plan = Plan::default();
    strip(&mut machine, options, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    let done = apply(&after, &open, &machine, &plan, "strip", false).unwrap();
    let (report, Report { plan: told, .. }) = done.expect("something to do");
    assert_eq!(told, plan);
    drop((machine, open));
    for name in ["SYSTEM", "SOFTWARE"] {
        let [old, new] = [disk, &after].map(|disk| hive(folder, disk, root, name));
        assert_exactly(&plan, name, &old, &new);
    }
    assert_ntfs_sound(&folder.join("volume"));
    let (again, second) = stripped(&after, options);
    assert_eq!(second.actions, []);
    assert!(again.changes().unwrap().is_empty(), "a second run changes nothing");
    assert_eq!(second.refusals, []);
    let copy = folder.join("done.raw");
    fs::copy(&after, &copy).unwrap();
    let open = OpenOptions::new().format(Format::Raw).in_one_session();
    undo(&after, &open, &report, false).unwrap();
    assert_eq!(sha256_file(&after), before, "the way back leads back");
    (copy, plan)
}

/// The script for the first start, judged by PowerShell's grammar.
fn script(folder: &Path, disk: &Path, root: usize) -> String {
    let volume = folder.join("volume");
    partition(disk, root, &volume);
    let path = folder.join("script.ps1");
    cat(&volume, SCRIPT, &path);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.is_ascii() && !text.replace("\r\n", "").contains('\n'));
    if Tool::PowershellGrammar.there() {
        let judge = "import sys, tree_sitter, tree_sitter_powershell as p\n\
            source = open(sys.argv[1], 'rb').read()\n\
            tree = tree_sitter.Parser(tree_sitter.Language(p.language())).parse(source)\n\
            assert not tree.root_node.has_error, tree.root_node\n";
        must(Tool::PowershellGrammar.python(), &["-c", judge, arg(&path)]);
    }
    text
}

/// A Windows 10 with one card, that of the corpus, and PowerShell and sysprep in it.
const TEN: Spec<'_> = Spec { files: &[(POWERSHELL, b"MZ"), (SYSPREP, b"MZ")], ..Spec::TEN };
const SEVEN: Spec<'_> = Spec { files: &[(POWERSHELL, b"MZ"), (SYSPREP, b"MZ")], ..Spec::SEVEN };

/// Settings of the card by hand.
fn fixed(system: &mut Registry) {
    let path = format!("{SET}\\Services\\Tcpip\\Parameters\\Interfaces\\{}", CARD.to_lowercase());
    system.number(&path, "EnableDHCP", 0);
    system.texts(&path, "IPAddress", &["192.168.7.20", "192.168.7.21"]);
    system.texts(&path, "SubnetMask", &["255.255.255.0", "255.255.255.0"]);
    system.texts(&path, "DefaultGateway", &["192.168.7.1"]);
    system.texts(&path, "DefaultGatewayMetric", &["0"]);
    system.text(&path, "NameServer", "192.168.7.2,192.168.7.3");
    system.text(&path, "Domain", "corp.example");
    let netbios = format!("{SET}\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{CARD}");
    system.texts(&netbios, "NameServerList", &["192.168.7.4"]);
    system.number(&netbios, "NetbiosOptions", 1);
    let nsi = format!("{SET}\\Control\\Nsi\\{{eb004a00-9b1a-11d4-9123-0050047759bc}}\\10");
    system.set(&nsi, "0000000180000600c0a8071400000000", ValueKind::BINARY, &[0; 48]);
    system.set(&nsi, "0000000280000600c0a8071400000000", ValueKind::BINARY, &[0; 48]);
    let nsi = format!("{SET}\\Control\\Nsi\\{{eb004a01-9b1a-11d4-9123-0050047759bc}}\\10");
    let row = "0000000180000600fd000000000000000000000000000014";
    system.set(&nsi, row, ValueKind::BINARY, &[0; 64]);
}

/// What Windows noted of networks: the card was last in a private one.
fn networks(folder: &Path, version: &str) -> Vec<u8> {
    let path = folder.join("prepared");
    software(&path, version);
    let mut hive = Registry::open(&path);
    let nt = "Microsoft\\Windows NT\\CurrentVersion";
    hive.text(&format!("{nt}\\NetworkCards\\13"), "ServiceName", CARD);
    hive.text(&format!("{nt}\\NetworkCards\\8"), "ServiceName", OLD);
    let list = format!("{nt}\\NetworkList");
    let gateway = [0, 0x18, 0xf8, 0xea, 0x2e, 0xa2];
    let cache = format!("{list}\\Nla\\Cache\\Intranet");
    hive.set(&cache, CARD, ValueKind::BINARY, &gateway);
    hive.set(&cache, LATER, ValueKind::BINARY, &gateway);
    hive.set(&format!("{cache}\\corp.example"), CARD, ValueKind::BINARY, &gateway);
    let signature = format!("{list}\\Signatures\\Unmanaged\\010103000F");
    hive.set(&signature, "DefaultGatewayMac", ValueKind::BINARY, &gateway);
    hive.text(&signature, "ProfileGuid", "{F20C3FC8-1692-44E5-B9B9-55C80CD16774}");
    let profile = format!("{list}\\Profiles\\{{F20C3FC8-1692-44E5-B9B9-55C80CD16774}}");
    hive.number(&profile, "Category", 1);
    hive.text(&profile, "ProfileName", "Network 2");
    let key = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
    hive.text(key, "ImageState", "IMAGE_STATE_COMPLETE");
    let certificates = "Microsoft\\SystemCertificates";
    let rdp = format!("{certificates}\\Remote Desktop\\Certificates\\3349EFE1");
    hive.set(&rdp, "Blob", ValueKind::BINARY, &[1]);
    hive.set(&format!("{certificates}\\MY\\Certificates\\77"), "Blob", ValueKind::BINARY, &[1]);
    hive.text("Classes\\CID\\{466d031e-f428-4aad-b086-613672b9c4c6}", "", "x");
    hive.save(&path);
    fs::read(&path).unwrap()
}

#[test]
fn a_card_of_windows_10_goes_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let software = networks(folder.path(), TEN.version);
    let files = [("Windows/System32/config/SOFTWARE", &software[..]), (POWERSHELL, b"MZ")];
    let Some(disk) = windows(folder.path(), &Spec { files: &files, ..TEN }, fixed) else { return };
    let (after, plan) = judged(folder.path(), &disk, &KEEP, 2);
    assert!(by(&plan, "windows.network.adapter").len() > 30, "{plan:?}");
    let told = warned(&plan, "windows.network.fixed");
    assert_eq!(told[1], "Ethernet0 has fixed addresses of IPv6: fd00::14");
    assert_eq!(
        told[..1],
        ["Ethernet0 has fixed settings: address 192.168.7.20 mask 255.255.255.0, address \
          192.168.7.21 mask 255.255.255.0, gateway 192.168.7.1, DNS server 192.168.7.2, DNS server \
          192.168.7.3, DNS suffix corp.example, WINS server 192.168.7.4, NetBIOS on"]
    );
    let system = hive(folder.path(), &after, 2, "SYSTEM");
    assert_eq!(mentions(&system, &[CARD, PLACE, &PLACE.replace('\\', "#")]), [""; 0]);
    assert_eq!(mentions(&system, &["0000000180000600"]), [""; 0]);
    // Another adapter, made by Windows, has all that it had.
    let other = "{F04D94D7-F2FD-456C-B001-379D341A0013}";
    let before = hive(folder.path(), &disk, 2, "SYSTEM");
    assert_eq!(mentions(&system, &[other]), mentions(&before, &[other]));
    let software = hive(folder.path(), &after, 2, "SOFTWARE");
    assert_eq!(mentions(&software, &[CARD]), [""; 0]);
    assert_eq!(mentions(&software, &[OLD, LATER]).len(), 2, "others stay");
    assert_eq!(by(&plan, "windows.network.profile"), [""; 0], "a move keeps its networks");

    let keep = ["windows.network.adapter".to_owned(), "windows.mounted-devices".to_owned()];
    let (_, plan) = stripped(&disk, &StripOptions { keep: keep.into(), ..KEEP });
    assert!(by(&plan, "windows.network").is_empty() && by(&plan, "windows.mounted").is_empty());
}

#[test]
fn the_new_card_gets_the_settings_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let software = networks(folder.path(), TEN.version);
    let files = [("Windows/System32/config/SOFTWARE", &software[..]), (POWERSHELL, b"MZ")];
    let Some(disk) = windows(folder.path(), &Spec { files: &files, ..TEN }, fixed) else { return };
    let options = StripOptions { keep_network: KeepNetwork::Only, ..KEEP };
    let (after, plan) = judged(folder.path(), &disk, &options, 2);
    assert_eq!(warned(&plan, "windows.network.fixed").len(), 1, "of IPv6");
    let service = format!("SYSTEM\\{SET}\\Services\\vdisk-firstboot");
    let kept = by(&plan, "windows.network.keep");
    for name in ["Type", "Start", "ErrorControl", "ImagePath", "ObjectName"] {
        assert!(kept.contains(&&*format!("{service}: {name}")), "{name} in {kept:?}");
    }
    let text = script(folder.path(), &after, 2);
    for line in [
        "$addresses = @('192.168.7.20', '192.168.7.21')",
        "$masks = @('255.255.255.0', '255.255.255.0')",
        "$gateways = @('192.168.7.1')",
        "$metrics = @()",
        "$servers = @('192.168.7.2', '192.168.7.3')",
        "$suffix = 'corp.example'",
        "$wins = @('192.168.7.4')",
        "$netbios = 1",
        "$private = $true",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}");
    }
    // Without PowerShell, and on Windows that never had it in the box, the settings are told.
    let place = folder.path().join("bare");
    fs::create_dir(&place).unwrap();
    let Some(disk) = windows(&place, &Spec::TEN, fixed) else { return };
    let (_, plan) = stripped(&disk, &options);
    assert_eq!(by(&plan, "windows.network.keep"), [""; 0]);
    let told = warned(&plan, "windows.network.keep");
    assert!(told[0].contains("no PowerShell") && told[0].contains("192.168.7.20"), "{told:?}");
}

#[test]
fn what_a_hostile_registry_says_is_no_code() {
    let place = tempfile::tempdir().unwrap();
    let spec = Spec { system: None, ..TEN };
    let cases = [
        ("Domain", "x'; Remove-Item C:\\ -Recurse; '"),
        ("NameServer", "1.2.3.4'); iex 'x"),
        ("NameServer", "$(calc)"),
    ];
    for (number, (name, text)) in cases.into_iter().enumerate() {
        let prepare = |system: &mut Registry| {
            fixed(system);
            let class = format!("{SET}\\Control\\Class\\{NET}\\0001");
            system.text(&class, "NetCfgInstanceId", CARD);
            system.text(&format!("{SET}\\Enum\\{PLACE}"), "Driver", &format!("{NET}\\0001"));
            let path = format!("{SET}\\Services\\Tcpip\\Parameters\\Interfaces");
            system.text(&format!("{path}\\{}", CARD.to_lowercase()), name, text);
        };
        let folder = place.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        let Some(disk) = windows(&folder, &spec, prepare) else { return };
        let options = StripOptions { keep_network: KeepNetwork::Only, ..KEEP };
        let (_, plan) = stripped(&disk, &options);
        assert_eq!(plan.refusals[0].id, "windows.network.keep");
        assert!(plan.refusals[0].message.contains(name), "{:?}", plan.refusals);
    }
}

#[test]
fn cards_of_windows_7_stay_without_settings_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &SEVEN, |_| {}) else { return };
    let (after, plan) = judged(folder.path(), &disk, &KEEP, 1);
    let told = warned(&plan, "windows.network.fixed");
    assert_eq!(told.len(), 2, "{told:?}");
    let system = hive(folder.path(), &after, 1, "SYSTEM");
    for gone in ["192.168.1.123", "10.3.58.5", "10.3.58.4"] {
        let left = mentions(&system, &[gone]);
        let left: Vec<&String> = left.iter().filter(|at| at.starts_with(SET)).collect();
        assert!(left.iter().all(|at| !at.contains("\\Tcpip\\")), "{gone} in {left:?}");
    }
    for row in ["00000007000006000a033a05", "0000000600000600c0a8017b"] {
        let left = mentions(&system, &[row]);
        assert!(left.iter().all(|at| !at.starts_with(SET)), "{left:?}");
    }
    let names = plan.actions.iter().filter(|one| one.place.ends_with("\\Connection: Name"));
    let names: Vec<&str> = names.filter_map(|one| one.after.as_deref()).collect();
    assert_eq!(
        names,
        ["Local Area Connection (old machine)", "Local Area Connection 2 (old machine)"]
    );
    // The devices themselves, and what is bound to them, are as they were.
    for place in by(&plan, "windows.network.adapter") {
        assert!(!place.contains("\\Enum\\") && !place.contains("Linkage"), "{place}");
    }
}

#[test]
fn of_two_cards_one_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &SEVEN, |_| {}) else { return };
    let with = |keep_network| stripped(&disk, &StripOptions { keep_network, ..KEEP }).1;
    let plan = with(KeepNetwork::Only);
    assert_eq!(plan.refusals[0].id, "windows.network.keep");
    let hint = plan.refusals[0].hint.as_deref().unwrap();
    assert!(hint.contains("10.3.58.5") && hint.contains("192.168.1.123"), "{hint}");
    let plan = with(KeepNetwork::Of(Ipv4Addr::new(10, 9, 9, 9)));
    assert!(plan.refusals[0].message.contains("10.9.9.9"), "{:?}", plan.refusals);
    let keep_network = KeepNetwork::Of(Ipv4Addr::new(10, 3, 58, 5));
    let options = StripOptions { keep_network, ..KEEP };
    let (after, plan) = judged(folder.path(), &disk, &options, 1);
    assert_eq!(warned(&plan, "windows.network.fixed").len(), 1, "the other card's are told");
    let text = script(folder.path(), &after, 1);
    assert!(text.contains("$addresses = @('10.3.58.5')\r\n"), "{text}");
    assert!(text.contains("$servers = @('10.3.58.4')\r\n$suffix = ''\r\n"), "{text}");
    let options = StripOptions { identity: Identity::Sysprep, ..options };
    let (_, plan) = stripped(&disk, &options);
    assert!(plan.refusals[0].message.contains("sysprep"), "{:?}", plan.refusals);
}

#[test]
fn media_and_devices_that_stay_behind_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &SEVEN, |_| {}) else { return };
    let (_, plan) = stripped(&disk, &KEEP);
    let mounted = by(&plan, "windows.mounted-devices");
    assert_eq!(by(&plan, "windows.ghost"), [""; 0], "only where it is asked for");
    for letter in ["A:", "D:", "E:"] {
        let place = format!("SYSTEM\\MountedDevices: \\DosDevices\\{letter}");
        assert!(mounted.contains(&&*place), "{letter} in {mounted:?}");
    }
    let fixed = ["\\DosDevices\\C:", "Volume{656b1715-ecf6-11df-92e6-806e6f6e6963}"];
    assert!(!mounted.iter().any(|place| fixed.iter().any(|kept| place.ends_with(kept))));
    let (after, plan) =
        judged(folder.path(), &disk, &StripOptions { purge_ghosts: true, ..KEEP }, 1);
    for id in ["windows.ghost.usbstor", "windows.ghost.display"] {
        assert!(!by(&plan, id).is_empty(), "{id}");
    }
    let system = hive(folder.path(), &after, 1, "SYSTEM");
    let left = mentions(&system, &["AA951D0000007252"]);
    let left: Vec<&String> = left.iter().filter(|at| at.starts_with(SET)).collect();
    assert!(left.iter().all(|at| !at.contains("\\Enum\\")), "{left:?}");
    let keep = ["windows.ghost".to_owned()].into();
    let (_, plan) = stripped(&disk, &StripOptions { purge_ghosts: true, keep, ..KEEP });
    assert_eq!(by(&plan, "windows.ghost"), [""; 0]);
}

#[test]
fn teams_are_told_and_addresses_of_cards_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { system: None, version: "6.3.9600", machine: X64, ..Spec::SEVEN };
    let prepare = |system: &mut Registry| {
        let class = format!("{SET}\\Control\\Class\\{NET}");
        system.text(&format!("{class}\\0001"), "NetCfgInstanceId", CARD);
        system.text(&format!("{class}\\0001"), "ComponentId", "COMPOSITEBUS\\MS_IMPLAT_MP");
        system.text(&format!("{class}\\0001"), "DriverDesc", "Team");
        system.text(&format!("{class}\\0002"), "NetCfgInstanceId", "..\\..\\nonsense");
        system.text(&format!("{class}\\0003"), "NetCfgInstanceId", LATER);
        system.text(&format!("{class}\\0003"), "NetworkAddress", "020000000001");
        let team = format!("{SET}\\Services\\Tcpip\\Parameters\\Interfaces\\{CARD}");
        system.number(&team, "EnableDHCP", 0);
        system.texts(&team, "IPAddress", &["10.0.0.1"]);
        system.texts(&team, "SubnetMask", &["255.0.0.0"]);
    };
    let Some(disk) = windows(folder.path(), &spec, prepare) else { return };
    let options = StripOptions { keep_network: KeepNetwork::Only, ..KEEP };
    let (_, plan) = stripped(&disk, &options);
    assert_eq!(warned(&plan, "windows.network.team").len(), 1);
    assert_eq!(warned(&plan, "windows.network.fixed").len(), 1);
    assert_eq!(warned(&plan, "windows.network.keep").len(), 1, "a team's are not carried over");
    assert_eq!(
        by(&plan, "windows.network"),
        [format!(
            "SYSTEM\\{SET}\\Control\\Class\\{{4D36E972-E325-11CE-BFC1-08002BE10318}}\\0003: NetworkAddress"
        )]
    );
}

#[test]
fn sysprep_waits_for_the_first_start() {
    let folder = tempfile::tempdir().unwrap();
    let software = networks(folder.path(), TEN.version);
    let config = "Windows/System32/config/SOFTWARE";
    let files = [(config, &software[..]), (POWERSHELL, b"MZ"), (SYSPREP, b"MZ")];
    let Some(disk) = windows(folder.path(), &Spec { files: &files, ..TEN }, |_| {}) else { return };
    let options = StripOptions { identity: Identity::Sysprep, ..KEEP };
    let (after, plan) = judged(folder.path(), &disk, &options, 2);
    assert!(by(&plan, "windows.sysprep").contains(&SCRIPT), "{plan:?}");
    assert_eq!(by(&plan, "windows.sid"), [""; 0]);
    assert_eq!(by(&plan, "windows.disk-id"), [""; 0]);
    assert!(!by(&plan, "windows.network.profile").is_empty());
    let told: Vec<&str> = plan.warnings.iter().map(|one| one.id.as_str()).collect();
    assert!(told.contains(&"windows.sysprep") && told.contains(&"windows.sysprep.losses"));
    let text = script(folder.path(), &after, 2);
    assert!(text.contains("'/generalize', '/oobe', '/quiet', '/reboot'"), "{text}");
    let place = folder.path().join("other");
    fs::create_dir(&place).unwrap();
    let files = [(POWERSHELL, &b"MZ"[..]), (&SCRIPT[1..], b"other"), (SYSPREP, b"MZ")];
    let spec = Spec { system: None, files: &files, ..Spec::SEVEN };
    let Some(disk) = windows(&place, &spec, |_| {}) else { return };
    let (_, plan) = stripped(&disk, &options);
    assert!(plan.refusals[0].message.contains("waits for the first start"), "{plan:?}");
}

#[test]
fn what_sysprep_refuses_is_refused_before() {
    let place = tempfile::tempdir().unwrap();
    let small = Spec { system: None, ..SEVEN };
    let without = Spec { files: &[(POWERSHELL, b"MZ")], ..small };
    let bare = Spec { files: &[(SYSPREP, b"MZ")], ..small };
    let nothing = |_: &mut Registry| {};
    let upgraded = |system: &mut Registry| system.number("Setup\\Upgrade", "UpgradeDone", 1);
    let failed = |system: &mut Registry| {
        system.number("Setup\\Status\\SysprepStatus", "GeneralizationState", 3);
    };
    let controller = |system: &mut Registry| {
        system.text(&format!("{SET}\\Control\\ProductOptions"), "ProductType", "LanmanNT");
    };
    let role = |system: &mut Registry| {
        system.number(&format!("{SET}\\Services\\CertSvc"), "Start", 2);
    };
    type Prepare = fn(&mut Registry);
    let cases: [(&str, Spec<'_>, Prepare, &str, bool); 7] = [
        ("xp", Spec { version: "5.1.2600", ..small }, nothing, "DEPLOY.CAB", true),
        ("missing", without, nothing, "is not there", true),
        ("bare", bare, nothing, "no PowerShell", true),
        ("controller", small, controller, "domain controller", true),
        ("upgraded", small, upgraded, "Setup\\Upgrade", false),
        ("failed", small, failed, "GeneralizationState 3", false),
        ("role", small, role, "certification authority", false),
    ];
    for (name, spec, prepare, said, always) in cases {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        let Some(disk) = windows(&folder, &spec, prepare) else { return };
        let options = StripOptions { identity: Identity::Sysprep, ..KEEP };
        let (_, plan) = stripped(&disk, &options);
        let first = &plan.refusals[0];
        let text = format!("{} {}", first.message, first.hint.as_deref().unwrap_or_default());
        assert!(text.contains(said) && first.id.starts_with("windows.sysprep"), "{name}: {text}");
        let (_, plan) = stripped(&disk, &StripOptions { force: true, ..options });
        assert_eq!(!plan.refusals.is_empty(), always, "{name}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_copy_forgets_networks_and_keys_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let software = networks(folder.path(), TEN.version);
    let keys = "ProgramData/Microsoft/Crypto/RSA/MachineKeys";
    let rdp = format!("{keys}/f686aace6942fb7f7ceb231212eef4a4_guid");
    let files = [
        ("Windows/System32/config/SOFTWARE", &software[..]),
        ("ProgramData/ssh/ssh_host_rsa_key", b"key"),
        ("ProgramData/ssh/ssh_host_rsa_key.pub", b"key"),
        ("ProgramData/ssh/sshd_config", b"Port 22"),
        (&rdp, b"key"),
        ("Windows/SMSCFG.INI", b"[Configuration]"),
    ];
    let Some(disk) = windows(folder.path(), &Spec { files: &files, ..TEN }, |_| {}) else { return };
    let options =
        StripOptions { identity: Identity::New, keep: ["windows.sid".to_owned()].into(), ..KEEP };
    let (machine, plan) = stripped(&disk, &options);
    assert_eq!(plan.refusals, []);
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    for name in ["SYSTEM", "SOFTWARE"] {
        let [old, new] = [&disk, &after].map(|disk| hive(folder.path(), disk, 2, name));
        assert_exactly(&plan, name, &old, &new);
    }
    let list = "SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion\\NetworkList";
    let profiles = by(&plan, "windows.network.profile");
    for key in [
        "Profiles\\{F20C3FC8-1692-44E5-B9B9-55C80CD16774}",
        "Signatures\\Unmanaged\\010103000F",
        "Nla\\Cache\\Intranet",
    ] {
        assert!(profiles.contains(&&*format!("{list}\\{key}")), "{key} in {profiles:?}");
    }
    assert_eq!(
        by(&plan, "windows.ssh-host-key"),
        ["/ProgramData/ssh/ssh_host_rsa_key", "/ProgramData/ssh/ssh_host_rsa_key.pub"]
    );
    assert_eq!(by(&plan, "windows.rdp-certificate").len(), 2);
    assert!(by(&plan, "windows.agent.sccm").contains(&"/Windows/SMSCFG.INI"));
    for id in ["windows.certificates", "windows.msdtc"] {
        assert_eq!(warned(&plan, id).len(), 1, "{id}");
    }
    assert_ntfs_sound(&folder.path().join("volume"));
}
