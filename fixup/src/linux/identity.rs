//! What makes a Linux the machine it is.

use std::collections::BTreeSet;

use ssh_key::rand_core::{OsRng, RngCore};
use vdisk_core::{Error, Result, hex};

use super::rules::{RULES, Rule, When};
use super::tree::Tree;
use super::{lines_that_differ, pins, some, ssh};
use crate::{Action, Identity, Plan, StripOptions};

/// Takes the guest, which starts from these archives, off its hardware, and with [`Identity::New`]
/// makes it another machine.
pub(super) fn strip(
    tree: &mut Tree<'_>,
    initramfs: &[String],
    options: &StripOptions,
    plan: &mut Plan,
) {
    if options.identity == Identity::Sysprep {
        plan.stop("linux.identity", "sysprep is Windows' own", "take --identity new");
        return;
    }
    let is_new = options.identity == Identity::New;
    let mut step =
        |id: &str,
         plan: &mut Plan,
         work: &mut dyn FnMut(&mut Tree<'_>, &mut Plan) -> Result<()>| {
            if options.keeps(id) {
                return;
            }
            if let Err(error) = work(tree, plan) {
                plan.stop_for(id, &error);
            }
        };
    for rule in RULES.iter().filter(|rule| is_new || rule.when == When::Move) {
        step(rule.id, plan, &mut |tree, plan| remove(tree, rule, plan));
    }
    step("linux.net.mac-pin", plan, &mut pins::remove);
    if let Some(name) = &options.hostname {
        step("linux.hostname", plan, &mut |tree, plan| hostname(tree, name, plan));
    }
    if is_new {
        step("linux.machine-id", plan, &mut machine_id);
        step("linux.ssh-host-keys", plan, &mut ssh::renew);
        step("linux.ssh-host-keys", plan, &mut |tree, plan| {
            ssh::in_initramfs(tree, initramfs, plan)
        });
        step("linux.agent.iscsi", plan, &mut iscsi);
        remains(tree, plan);
    }
}

/// What stays readable, though no name leads there any more.
fn remains(tree: &mut Tree<'_>, plan: &mut Plan) {
    let paths = std::mem::take(tree.remains());
    if !paths.is_empty() {
        plan.warn(
            "linux.identity.remains",
            format!("what stood in {} stays readable in free space", some(&paths)),
            "leave free space out with: vdisk convert --skip-free",
        );
    }
}

fn remove(tree: &mut Tree<'_>, rule: &Rule, plan: &mut Plan) -> Result<()> {
    for pattern in rule.paths {
        for path in tree.glob(pattern)? {
            match rule.wiped {
                true => tree.wipe(&path)?,
                false if rule.when == When::Copy => tree.remains().push(path.clone()),
                false => {}
            }
            tree.remove(&path)?;
            plan.act(Action::new(rule.id, rule.what, path).why(rule.why).before("there"));
        }
    }
    Ok(())
}

/// An empty file is filled at the next start, and is no first boot (machine-id(5)): presets stay
/// as they are.
fn machine_id(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    const IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    let (mut has_systemd, mut ids) = (false, BTreeSet::new());
    for path in SYSTEMD {
        has_systemd |= tree.has(path)?;
    }
    for path in IDS {
        let is_file =
            tree.stat(path)?.is_some_and(|stat| stat.kind == vdisk_guest::fs::FileKind::File);
        let Some(old) = tree.text(path)?.filter(|_| is_file) else { continue };
        let id = old.trim().to_owned();
        if id.is_empty() || id == "uninitialized" {
            continue;
        }
        ids.insert(id.clone());
        let action = Action::new("linux.machine-id", "forget the machine's id", path)
            .why("journals, DHCP and agents tell machines apart by it")
            .before(id);
        plan.act(if !has_systemd {
            let new = random(16);
            tree.write_over(path, format!("{new}\n").as_bytes(), 0o444)?;
            action.after(new)
        } else if path == "/etc/machine-id" {
            tree.write_over(path, b"", 0o444)?;
            action.after("empty: made at the next start")
        } else {
            tree.wipe(path)?;
            tree.remove(path)?;
            action
        });
    }
    ids.iter().try_for_each(|id| named_by(tree, id, plan))
}

/// Where kernel-install(8) names files and folders by the machine's id: `*` stands for that.
const NAMED: [&str; 7] = [
    "/boot/*",
    "/efi/*",
    "/boot/efi/*",
    "/boot/loader/entries/*",
    "/efi/loader/entries/*",
    "/boot/efi/loader/entries/*",
    "/boot/efi/EFI/Linux/*",
];

/// Tells of what has the machine's old id in its name.
fn named_by(tree: &mut Tree<'_>, id: &str, plan: &mut Plan) -> Result<()> {
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut found = Vec::new();
    for pattern in NAMED {
        found.extend(tree.glob(&pattern.replace('*', &format!("*{id}*")))?);
    }
    if !found.is_empty() {
        plan.warn(
            "linux.machine-id",
            format!("the old id {id} is still in the names of {}", some(&found)),
            "the guest starts by them all the same; they go when its kernels are installed anew",
        );
    }
    Ok(())
}

/// The name of the iSCSI initiator, whose end is random.
fn iscsi(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    let path = "/etc/iscsi/initiatorname.iscsi";
    let Some(old) = tree.text(path)? else { return Ok(()) };
    let renamed = |line: &str| match line.rsplit_once(':') {
        Some((head, _)) if line.trim_start().starts_with("InitiatorName=") => {
            format!("{head}:{}\n", random(6))
        }
        _ => line.to_owned(),
    };
    let new: String = old.split_inclusive('\n').map(renamed).collect();
    if new == old {
        return Ok(());
    }
    tree.write_over(path, new.as_bytes(), 0o600)?;
    let (before, after) = lines_that_differ(&old, &new);
    plan.act(
        Action::new("linux.agent.iscsi", "another name for the iSCSI initiator", path)
            .why("storage servers would take two machines for one")
            .before(before)
            .after(after),
    );
    Ok(())
}

/// Files that hold nothing but the name; files in which it is one word.
const NAME_FILES: [&str; 3] = ["/etc/hostname", "/etc/HOSTNAME", "/etc/mailname"];
const NAME_WORDS: [&str; 2] = ["/etc/hosts", "/etc/sysconfig/network"];

fn hostname(tree: &mut Tree<'_>, name: &str, plan: &mut Plan) -> Result<()> {
    if !is_hostname(name) {
        return Err(Error::usage(format!("{name:?} is no name of a host"))
            .hint("letters, digits and dashes, parts of at most 63 with dots between them"));
    }
    let mut old = None;
    for path in NAME_FILES {
        let Some(text) = tree.text(path)? else { continue };
        let found = text.trim().to_owned();
        let old = old.get_or_insert_with(|| found.clone());
        if found == *old && found != name {
            tree.write(path, format!("{name}\n").as_bytes(), 0o644)?;
            plan.act(renamed(path).before(found).after(name));
        }
    }
    let Some(old) = old else {
        tree.write("/etc/hostname", format!("{name}\n").as_bytes(), 0o644)?;
        plan.act(renamed("/etc/hostname").after(name));
        return Ok(());
    };
    for path in NAME_WORDS {
        let Some(text) = tree.text(path)? else { continue };
        let new = with_name(&text, &old, name);
        if old.is_empty() || old == "localhost" || new == text {
            continue;
        }
        tree.write(path, new.as_bytes(), 0o644)?;
        let (before, after) = lines_that_differ(&text, &new);
        plan.act(renamed(path).before(before).after(after));
    }
    Ok(())
}

fn renamed(path: &str) -> Action {
    Action::new("linux.hostname", "change the host's name", path).why("it was asked for")
}

/// The text with one word, and the first part of one, replaced.
fn with_name(text: &str, old: &str, new: &str) -> String {
    let is_edge = |c: char| c.is_whitespace() || c == '=' || c == '"';
    let word = |part: &str| {
        let end = part.chars().last().filter(|c| is_edge(*c)).map_or(0, char::len_utf8);
        let (word, end) = part.split_at(part.len() - end);
        match word.strip_prefix(old) {
            Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("{new}{rest}{end}"),
            _ => part.to_owned(),
        }
    };
    text.split_inclusive(is_edge).map(word).collect()
}

/// RFC 1123, 2.1; Linux takes 64 bytes at most.
fn is_hostname(name: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..64).contains(&part.len())
            && part.chars().all(plain)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 64 && name.split('.').all(is_part)
}

/// As many random bytes, as text.
fn random(len: usize) -> String {
    let mut bytes = vec![0; len];
    OsRng.fill_bytes(&mut bytes);
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_as_words() {
        let hosts = "127.0.1.1 old.example.org old\n10.0.0.1 older\nHOSTNAME=\"old\"\n";
        assert_eq!(
            with_name(hosts, "old", "new"),
            "127.0.1.1 new.example.org new\n10.0.0.1 older\nHOSTNAME=\"new\"\n"
        );
        assert!(is_hostname("web-1.example.org"));
        assert!(
            !is_hostname("-a") && !is_hostname("a b") && !is_hostname("") && !is_hostname("a..b")
        );
        assert_eq!(random(16).len(), 32);
    }
}
