//! Other numbers that tell machines apart.

use uuid::Uuid;
use vdisk_core::{ErrorKind, Result};

use crate::windows::{Data, Hives, Reason, files};
use crate::{Machine, Plan, StripOptions};

const GUID: &str = "windows.machine-guid";

/// What becomes of a value.
#[derive(Clone, Copy)]
enum New {
    /// It goes, and is made anew when it is missed.
    None,
    /// A random GUID in lower case.
    Guid,
    /// A random GUID in upper case and braces.
    BracedGuid,
}

/// A number that is one machine's own. `SET` in a key stands for each control set in use, a name of
/// `*` for the keys below.
struct Rule {
    id: &'static str,
    hive: &'static str,
    key: &'static str,
    names: &'static [&'static str],
    new: New,
    why: &'static str,
}

/// What a licensed server of Remote Desktop shows its clients.
const RDS_CERTIFICATES: [&str; 4] =
    ["Certificate", "X509 Certificate", "X509 Certificate ID", "X509 Certificate2"];
/// Networks are known by their gateways' addresses and by the days they were used.
const NETWORKS: &str = "it tells where the other machine has been and when; a network that is met \
                        again counts as public until it is said to be private";

/// The table. What agents keep was collected from what their makers say of cloned machines.
const RULES: [Rule; 27] = [
    Rule {
        id: "windows.wsus",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate",
        names: &["SusClientId", "SusClientIdValidation", "AccountDomainSid", "PingID"],
        new: New::None,
        why: "an update server takes machines with the same id for one",
    },
    Rule {
        id: "windows.telemetry",
        hive: "SOFTWARE",
        key: "Microsoft\\SQMClient",
        names: &["MachineId"],
        new: New::BracedGuid,
        why: "it names the machine to Microsoft",
    },
    Rule {
        id: "windows.dhcpv6",
        hive: "SYSTEM",
        key: "SET\\Services\\TCPIP6\\Parameters",
        names: &["Dhcpv6DUID"],
        new: New::None,
        why: "DHCPv6 gives machines with the same DUID the same address",
    },
    Rule {
        id: "windows.hardware-profile",
        hive: "SYSTEM",
        key: "SET\\Control\\IDConfigDB\\Hardware Profiles\\0001",
        names: &["HwProfileGuid"],
        new: New::BracedGuid,
        why: "software takes it for the machine",
    },
    Rule {
        id: "windows.rds-licence",
        hive: "SOFTWARE",
        key: "Microsoft\\MSLicensing\\HardwareID",
        names: &["ClientHWID"],
        new: New::None,
        why: "a licence server takes machines with the same id for one",
    },
    Rule {
        id: "windows.rds-licence",
        hive: "SOFTWARE",
        key: "Microsoft\\MSLicensing\\Store",
        names: &["*"],
        new: New::None,
        why: "a licence was given to the other machine",
    },
    Rule {
        id: "windows.rds-licence",
        hive: "SYSTEM",
        key: "SET\\Control\\Terminal Server\\RCM",
        names: &RDS_CERTIFICATES,
        new: New::None,
        why: "clients take servers with the same certificate for one; it is made anew",
    },
    Rule {
        id: "windows.rds-licence",
        hive: "SYSTEM",
        key: "SET\\Services\\TermService\\Parameters",
        names: &RDS_CERTIFICATES,
        new: New::None,
        why: "clients take servers with the same certificate for one; it is made anew",
    },
    Rule {
        id: "windows.rdp-certificate",
        hive: "SOFTWARE",
        key: "Microsoft\\SystemCertificates\\Remote Desktop\\Certificates",
        names: &["*"],
        new: New::None,
        why: "Remote Desktop made it for the other machine, and makes another one",
    },
    Rule {
        id: "windows.rdp-certificate",
        hive: "SYSTEM",
        key: "SET\\Control\\Terminal Server\\WinStations\\RDP-Tcp",
        names: &["SelfSignedCertificate"],
        new: New::None,
        why: "Remote Desktop made it for the other machine, and makes another one",
    },
    Rule {
        id: "windows.network.profile",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Profiles",
        names: &["*"],
        new: New::None,
        why: NETWORKS,
    },
    Rule {
        id: "windows.network.profile",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Signatures\\Managed",
        names: &["*"],
        new: New::None,
        why: NETWORKS,
    },
    Rule {
        id: "windows.network.profile",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Signatures\\Unmanaged",
        names: &["*"],
        new: New::None,
        why: NETWORKS,
    },
    Rule {
        id: "windows.network.profile",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Nla\\Cache",
        names: &["*"],
        new: New::None,
        why: NETWORKS,
    },
    Rule {
        id: "windows.agent.sccm",
        hive: "SOFTWARE",
        key: "Microsoft\\SystemCertificates\\SMS\\Certificates",
        names: &["*"],
        new: New::None,
        why: "Configuration Manager takes machines with the same certificate for one",
    },
    Rule {
        id: "windows.agent.defender",
        hive: "SOFTWARE",
        key: "Microsoft\\Windows Advanced Threat Protection",
        names: &["senseGuid", "senseId"],
        new: New::None,
        why: "Defender for Endpoint takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.mcafee",
        hive: "SOFTWARE",
        key: "Network Associates\\ePolicy Orchestrator\\Agent",
        names: &["AgentGUID"],
        new: New::None,
        why: "ePolicy Orchestrator takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.mcafee",
        hive: "SOFTWARE",
        key: "Wow6432Node\\Network Associates\\ePolicy Orchestrator\\Agent",
        names: &["AgentGUID"],
        new: New::None,
        why: "ePolicy Orchestrator takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.mcafee",
        hive: "SOFTWARE",
        key: "McAfee\\Agent",
        names: &["AgentGUID"],
        new: New::None,
        why: "ePolicy Orchestrator takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.symantec",
        hive: "SOFTWARE",
        key: "Symantec\\Symantec Endpoint Protection\\SMC\\SYLINK\\SyLink",
        names: &["HardwareID", "HostGUID"],
        new: New::None,
        why: "Endpoint Protection Manager takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.symantec",
        hive: "SOFTWARE",
        key: "Wow6432Node\\Symantec\\Symantec Endpoint Protection\\SMC\\SYLINK\\SyLink",
        names: &["HardwareID", "HostGUID"],
        new: New::None,
        why: "Endpoint Protection Manager takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.trend-micro",
        hive: "SOFTWARE",
        key: "Wow6432Node\\TrendMicro\\PC-cillinNTCorp\\CurrentVersion",
        names: &["GUID"],
        new: New::None,
        why: "its server takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.crowdstrike",
        hive: "SYSTEM",
        key: "SET\\Services\\CSAgent\\Sim",
        names: &["AG"],
        new: New::None,
        why: "its cloud takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.tanium",
        hive: "SOFTWARE",
        key: "Wow6432Node\\Tanium\\Tanium Client",
        names: &["ComputerID"],
        new: New::None,
        why: "its server takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.bigfix",
        hive: "SOFTWARE",
        key: "Wow6432Node\\BigFix\\EnterpriseClient\\GlobalOptions",
        names: &["ComputerID"],
        new: New::None,
        why: "its server takes machines with the same id for one",
    },
    Rule {
        id: "windows.agent.landesk",
        hive: "SOFTWARE",
        key: "Wow6432Node\\Intel\\LANDesk\\Common Api",
        names: &["UniqueID"],
        new: New::None,
        why: "its server takes machines with the same id for one",
    },
    Rule {
        id: GUID,
        hive: "SOFTWARE",
        key: "Microsoft\\Cryptography",
        names: &["MachineGuid"],
        new: New::Guid,
        why: "software and agents take machines with the same GUID for one",
    },
];

/// Makes all of them new but those that are kept.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    for rule in RULES.iter().filter(|rule| !options.keeps(rule.id)) {
        if rule.id == GUID && has_machine_keys(machine, hives, options, plan)? {
            continue;
        }
        apply(rule, machine, hives, plan)?;
    }
    Ok(())
}

/// Takes away what goes, and leaves what would be made new as it is.
pub(super) fn take_away(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let goes = |rule: &&Rule| matches!(rule.new, New::None) && !options.keeps(rule.id);
    RULES.iter().filter(goes).try_for_each(|rule| apply(rule, machine, hives, plan))
}

/// Whether keys of the machine stand in files that are named by its GUID: with another one Windows
/// would not find them. Then the GUID stays, unless it is forced.
fn has_machine_keys(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<bool> {
    let guid = hives.config(machine, "SOFTWARE")?.text("Microsoft\\Cryptography", "MachineGuid")?;
    let Some(guid) = guid else { return Ok(false) };
    let root = hives.root().clone();
    let fs = machine.volume(&root)?.fs();
    let mut count = 0;
    for shared in files::shared(fs)? {
        let folder = format!("{shared}/Microsoft/Crypto/RSA/MachineKeys");
        match fs.read_dir(folder.as_bytes()) {
            Ok(keys) => {
                let ending = format!("_{guid}").to_ascii_lowercase();
                let named = keys.iter().filter(|file| {
                    String::from_utf8_lossy(&file.name).to_ascii_lowercase().ends_with(&ending)
                });
                count += named.count();
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if count == 0 {
        return Ok(false);
    }
    let (message, hint) = if options.force {
        (format!("Windows does not find {count} keys of the machine any more"), "")
    } else {
        (
            format!("MachineGuid stays as it is: {count} keys of the machine are found by it"),
            "change it all the same with --force, and make certificates of the machine anew",
        )
    };
    plan.warn(GUID, message, hint);
    Ok(!options.force)
}

fn apply(rule: &Rule, machine: &mut Machine, hives: &mut Hives, plan: &mut Plan) -> Result<()> {
    let what = match rule.new {
        New::None => "take away what is one machine's own",
        New::Guid | New::BracedGuid => "give the machine another number",
    };
    let reason = Reason { id: rule.id, what, why: rule.why };
    let registry = hives.config(machine, rule.hive)?;
    let mut keys = vec![rule.key.to_owned()];
    if let Some(rest) = rule.key.strip_prefix("SET") {
        keys = registry.control_sets()?.iter().map(|set| format!("{set}{rest}")).collect();
    }
    for key in keys {
        for name in rule.names {
            match (*name, rule.new) {
                ("*", _) => {
                    for child in registry.children(&key)? {
                        registry.delete_key(plan, reason, &format!("{key}\\{child}"))?;
                    }
                }
                (name, New::None) => {
                    registry.delete_value(plan, reason, &key, name)?;
                }
                (name, new) if registry.value(&key, name)?.is_some() => {
                    let guid = Uuid::new_v4();
                    let text = match new {
                        New::BracedGuid => format!("{:X}", guid.braced()),
                        _ => guid.to_string(),
                    };
                    registry.set(plan, reason, &key, name, &Data::Sz(text))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
