//! What stands in the way of another machine SID, and what cannot survive it.

use vdisk_core::Result;

use super::profiles::Profile;
use crate::windows::{Hives, Registry};
use crate::{Machine, Plan, StripOptions};

/// A role whose state names the machine's SID: a service, or the beginning of its name with `*`.
const ROLES: [(&str, &str); 9] = [
    ("ClusSvc", "a node of a failover cluster"),
    ("CertSvc", "a certification authority"),
    ("MSExchangeIS", "an Exchange server"),
    ("MSExchangeServiceHost", "an Exchange server"),
    ("ADAM_*", "a directory server (AD LDS)"),
    ("TermServLicensing", "a licence server of Remote Desktop"),
    ("SPTimerV*", "a SharePoint server"),
    ("WsusService", "an update server (WSUS)"),
    ("vmms", "a Hyper-V host"),
];
/// `Start` of a service that is disabled.
const DISABLED: u32 = 4;
/// The first build that does not authenticate to a machine with the same SID.
const STRICT_BUILD: u32 = 26_100;
/// The way out for whom a new SID is no help.
const SYSPREP: &str = "let Windows do it itself with --identity sysprep, or move it with --identity \
                       keep and never run the original beside it";

/// Refuses domain controllers, and without `force` what keeps the SID in state of its own.
pub(super) fn services(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    let set = system.control_sets()?.into_iter().next().unwrap_or_default();
    if is_domain_controller(system, &set)? {
        plan.stop(
            "windows.sid.domain-controller",
            "the SID of a domain controller is the domain's: it cannot be changed",
            "move it with --identity keep, and never run the original beside it",
        );
        return Ok(());
    }
    for (service, role) in roles(system, &set)? {
        let message = format!("it is {role} ({service}), which keeps the machine's SID elsewhere");
        if options.force {
            plan.warn("windows.sid.role", message, SYSPREP);
        } else {
            plan.stop("windows.sid.role", message, format!("{SYSPREP}; or go on with --force"));
        }
    }
    if is_cloud_joined(system, &set)? {
        plan.warn(
            "windows.sid.cloud-joined",
            "it is joined to Entra ID (Azure AD), as the same device as the original",
            "run in the copy: dsregcmd /leave, and join it again",
        );
    }
    Ok(())
}

/// Whether the accounts of the machine are those of a domain.
pub(super) fn is_domain_controller(system: &Registry, set: &str) -> Result<bool> {
    let product = system.text(&format!("{set}\\Control\\ProductOptions"), "ProductType")?;
    let is_said = product.is_some_and(|product| product.eq_ignore_ascii_case("LanmanNT"));
    Ok(is_said || runs(system, set, "NTDS")?)
}

/// Whether it is a device of Entra ID (Azure AD).
pub(super) fn is_cloud_joined(system: &Registry, set: &str) -> Result<bool> {
    let joined = format!("{set}\\Control\\CloudDomainJoin\\JoinInfo");
    Ok(!system.children(&joined)?.is_empty())
}

/// Services with state of their own that names the machine, and what they make of it.
pub(super) fn roles(system: &Registry, set: &str) -> Result<Vec<(String, &'static str)>> {
    let mut found = Vec::new();
    for service in system.children(&format!("{set}\\Services"))? {
        let role = ROLES.iter().find(|(name, _)| fits(name, &service));
        if let Some((_, role)) = role
            && runs(system, set, &service)?
        {
            found.push((service, *role));
        }
    }
    Ok(found)
}

/// Warns of what the members of a domain, the users and the latest Windows have to expect.
pub(super) fn losses(machine: &Machine, users: &[&Profile], plan: &mut Plan) {
    let windows = machine.inventory().systems.iter().find_map(|one| one.windows.as_ref());
    let domain = windows.and_then(|windows| windows.domain.as_ref()).filter(|one| one.joined);
    if let Some(domain) = domain {
        let name = domain.dns_name.as_ref().or(domain.name.as_ref());
        plan.warn(
            "windows.sid.domain-member",
            format!(
                "it is a member of the domain {} and shares one account there with the original",
                name.map_or("?", String::as_str)
            ),
            "give it another name and join it to the domain again",
        );
    }
    if !users.is_empty() {
        let names: Vec<&str> = users.iter().map(|user| user.user()).collect();
        plan.warn(
            "windows.sid.dpapi",
            format!(
                "what DPAPI protects for {} cannot be read any more: saved passwords, private \
                 keys of certificates, cookies of browsers, Windows Hello",
                names.join(", ")
            ),
            "export it in the original, or move the machine with --identity keep",
        );
    }
    plan.warn(
        "windows.sid.remains",
        "event logs, page files, databases, quota entries, transactions of hives \
         (*.regtrans-ms, *.blf), NTFS' journals ($LogFile, $UsnJrnl), shadow copies, restore \
         points (of XP with whole old hives) and free space may go on naming the old machine",
        "delete shadow copies and restore points in the guest first (vssadmin delete shadows \
         /all), and leave free space out with: vdisk convert --skip-free",
    );
    if windows.and_then(|windows| windows.build).is_some_and(|build| build >= STRICT_BUILD) {
        plan.warn(
            "windows.sid.authentication",
            "Windows 11 24H2, Server 2025 and later keep another identity of the machine in a \
             place that is not documented; whether copies authenticate to one another with a new \
             SID alone was not seen",
            "watch for event 6167 of LsaSrv; what Microsoft supports is --identity sysprep",
        );
    }
}

/// Refuses files that are encrypted with users' keys, unless forced.
pub(super) fn encrypted(
    volume: &str,
    (count, example): (u64, &str),
    options: &StripOptions,
    plan: &mut Plan,
) {
    let message = format!(
        "{count} files of {volume} are encrypted (EFS), such as {example}: with another SID \
         nobody can read them any more"
    );
    if options.force {
        plan.warn("windows.sid.efs", message, "");
    } else {
        plan.stop("windows.sid.efs", message, "decrypt them in the guest with: cipher /d");
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => name.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head)),
        None => name.eq_ignore_ascii_case(pattern),
    }
}

fn runs(system: &Registry, set: &str, service: &str) -> Result<bool> {
    let start = system.number(&format!("{set}\\Services\\{service}"), "Start")?;
    Ok(start.is_some_and(|start| start < DISABLED))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn services_are_known_by_name_or_its_beginning() {
        assert!(fits("ClusSvc", "clussvc"));
        assert!(!fits("ClusSvc", "ClusSvcX"));
        assert!(fits("ADAM_*", "adam_Instance1"));
        assert!(!fits("ADAM_*", "ADA"));
    }
}
