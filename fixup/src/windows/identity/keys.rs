//! Files and certificates that only one machine may have.

use vdisk_core::Result;
use vdisk_guest::fs::{Edit, GuestFsMut};

use crate::windows::{Hives, Registry, files};
use crate::wipe::wipe;
use crate::{Action, Machine, Plan, StripOptions};

/// Files of one kind. `ROOT` for a folder stands for that of Windows, `SHARED` for those of what all
/// users share.
struct Rule {
    id: &'static str,
    folder: &'static str,
    /// What a file's name begins with, in lower case.
    start: &'static str,
    /// What it ends with, in lower case.
    end: &'static str,
    why: &'static str,
}

/// Files that go, and that their owners make anew.
const RULES: [Rule; 4] = [
    Rule {
        id: "windows.ssh-host-key",
        folder: "SHARED/ssh",
        start: "ssh_host_",
        end: "_key",
        why: "machines with the same key cannot be told apart; sshd makes another one at its start",
    },
    Rule {
        id: "windows.ssh-host-key",
        folder: "SHARED/ssh",
        start: "ssh_host_",
        end: "_key.pub",
        why: "machines with the same key cannot be told apart; sshd makes another one at its start",
    },
    Rule {
        id: "windows.rdp-certificate",
        folder: "SHARED/Microsoft/Crypto/RSA/MachineKeys",
        // The hash of the name that Remote Desktop gives the key of its own certificate.
        start: "f686aace6942fb7f7ceb231212eef4a4_",
        end: "",
        why: "it is the key of the certificate that Remote Desktop made for the other machine",
    },
    Rule {
        id: "windows.agent.sccm",
        folder: "ROOT",
        start: "smscfg.ini",
        end: "smscfg.ini",
        why: "Configuration Manager takes machines with the same id for one",
    },
];
/// Certificates of the machine.
const OWN: &str = "Microsoft\\SystemCertificates\\MY\\Certificates";
/// Contact ids of the transaction coordinator, by which it knows its partners.
const CONTACTS: &str = "Classes\\CID";

/// Takes away what can be, and says what stays.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    files(machine, hives, options, plan)?;
    remaining(hives.config(machine, "SOFTWARE")?, plan)
}

/// Takes the files of the table away.
pub(super) fn files(
    machine: &mut Machine,
    hives: &Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let fs = machine.volume(hives.root())?.fs();
    let shared = files::shared(fs)?;
    for rule in RULES.iter().filter(|rule| !options.keeps(rule.id)) {
        let folders = match rule.folder.strip_prefix("SHARED") {
            Some(rest) => shared.iter().map(|shared| format!("{shared}{rest}")).collect(),
            None => vec![hives.folder().to_owned()],
        };
        for folder in folders {
            remove(fs, rule, &folder, plan)?;
        }
    }
    Ok(())
}

/// Takes away the files in a folder that a rule tells of.
fn remove(fs: &mut dyn GuestFsMut, rule: &Rule, folder: &str, plan: &mut Plan) -> Result<()> {
    if !fs.exists(folder.as_bytes())? {
        return Ok(());
    }
    for file in fs.read_dir(folder.as_bytes())? {
        let name = String::from_utf8_lossy(&file.name).into_owned();
        let lower = name.to_ascii_lowercase();
        if !lower.starts_with(rule.start) || !lower.ends_with(rule.end) {
            continue;
        }
        let path = format!("{folder}/{name}");
        let len = fs.stat(path.as_bytes())?.size;
        if !wipe(fs, path.as_bytes())? {
            plan.warn(
                "windows.keys.remains",
                format!("what stood in {path} stays readable in free space"),
                "leave free space out with: vdisk convert --skip-free",
            );
        }
        fs.apply(&Edit::Remove { path: path.as_bytes() })?;
        let action = Action::new(rule.id, "remove a file that is one machine's own", path);
        plan.act(action.why(rule.why).before(format!("file of {len} bytes")));
    }
    Ok(())
}

/// What the copy goes on sharing with the original.
fn remaining(software: &Registry, plan: &mut Plan) -> Result<()> {
    let count = software.children(OWN)?.len();
    if count > 0 {
        plan.warn(
            "windows.certificates",
            format!(
                "{count} certificates of the machine, with their keys, are those of the original \
                 too: servers and clients take both machines for one"
            ),
            "have the copy enrol its own, and delete these there",
        );
    }
    if !software.children(CONTACTS)?.is_empty() {
        plan.warn(
            "windows.msdtc",
            "the transaction coordinator (MSDTC) has the same contact ids as the original's: \
             transactions between the two fail",
            "where they are used, run in the copy: msdtc -uninstall, then msdtc -install",
        );
    }
    Ok(())
}
