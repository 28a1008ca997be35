//! SSH host keys, made anew: not every system makes missing ones, and a server without any does
//! not start.

use ssh_key::private::{KeypairData, PrivateKey, RsaKeypair};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PublicKey};
use vdisk_core::{Error, ErrorKind, Result};

use super::initramfs::Contents;
use super::some;
use super::tree::Tree;
use crate::{Action, Plan};

const ID: &str = "linux.ssh-host-keys";
/// What OpenSSH makes, and the most that is made for one that has more.
const RSA_BITS: usize = 3072;
const MOST_RSA_BITS: usize = 8192;
/// The key of the first version of the protocol.
const SSH_1: &str = "/etc/ssh/ssh_host_key";
/// Keys of Dropbear, and the programs that read them.
const DROPBEAR_KEYS: [&str; 4] = [
    "/etc/dropbear/dropbear_*_host_key",
    "/etc/dropbear/initramfs/dropbear_*_host_key",
    "/etc/dropbear-initramfs/dropbear_*_host_key",
    "/etc/initramfs-tools/etc/dropbear/dropbear_*_host_key",
];
const DROPBEAR: [&str; 3] = ["/usr/sbin/dropbear", "/usr/bin/dropbear", "/sbin/dropbear"];
/// Bytes of an initramfs.
const MOST_INITRAMFS: u64 = 512 << 20;

/// Writes a new key over each that is there, of the same kind.
///
/// # Errors
/// The volume's.
pub(super) fn renew(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    dropbear(tree, plan)?;
    let paths = [tree.glob("/etc/ssh/ssh_host_*_key")?, tree.glob(SSH_1)?];
    for path in paths.into_iter().flatten() {
        let public_path = format!("{path}.pub");
        let old =
            tree.text(&public_path)?.and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let Some(kind) = kind(&path, old.as_ref()) else {
            for path in [format!("{path}.pub"), path] {
                remove(tree, &path, "it is of a kind that is not made any more", plan)?;
            }
            continue;
        };
        let comment = old.as_ref().map(|key| key.comment().to_owned()).unwrap_or_default();
        let mut key = make(&kind).map_err(failed)?;
        key.set_comment(comment);
        let secret = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let public = key.public_key().to_openssh().map_err(failed)?;
        tree.write_over(&path, secret.as_bytes(), 0o600)?;
        tree.write(&public_path, format!("{public}\n").as_bytes(), 0o644)?;
        let mut action = Action::new(ID, "make a new host key", path)
            .why("whoever has the old one could pass for both machines")
            .after(fingerprint(key.public_key()));
        action.before = old.as_ref().map(fingerprint);
        plan.act(action);
    }
    Ok(())
}

fn remove(tree: &mut Tree<'_>, path: &str, why: &str, plan: &mut Plan) -> Result<()> {
    if tree.stat(path)?.is_some() {
        tree.wipe(path)?;
        tree.remove(path)?;
        plan.act(Action::new(ID, "remove a host key", path).why(why).before("there"));
    }
    Ok(())
}

/// Dropbear has a format of its own, and makes keys itself.
fn dropbear(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    let mut gone = false;
    for pattern in DROPBEAR_KEYS {
        for path in tree.glob(pattern)? {
            remove(tree, &path, "whoever has it could pass for both machines", plan)?;
            gone = true;
        }
    }
    if gone {
        plan.warn(
            ID,
            "Dropbear has no host keys any more, and makes some only if started with -R",
            "if it has none in the copy, make them there with dropbearkey",
        );
    }
    Ok(())
}

/// Tells of keys in what the guest starts from, where it has Dropbear at all.
///
/// # Errors
/// The volume's.
pub(super) fn in_initramfs(tree: &mut Tree<'_>, paths: &[String], plan: &mut Plan) -> Result<()> {
    let mut has_dropbear = false;
    for path in DROPBEAR {
        has_dropbear |= tree.has(path)?;
    }
    let mut found = Vec::new();
    for path in paths.iter().filter(|_| has_dropbear) {
        let Some(bytes) = tree.read(path, MOST_INITRAMFS)? else { continue };
        // What cannot be read may hold them.
        if Contents::read(&bytes).map_or(true, |contents| contents.has_below("etc/dropbear/")) {
            found.push(path.clone());
        }
    }
    if !found.is_empty() {
        plan.warn(
            ID,
            format!("{} may hold host keys of Dropbear, which both machines share", some(&found)),
            "have the copy make it anew: update-initramfs -u -k all, or dracut --force \
             --regenerate-all",
        );
    }
    Ok(())
}

enum Kind {
    Other(Algorithm),
    Rsa(usize),
}

/// The kind of the key at a path: of its public part, or by its name.
fn kind(path: &str, old: Option<&PublicKey>) -> Option<Kind> {
    let by_name = match path.strip_prefix("/etc/ssh/ssh_host_")?.strip_suffix("_key")? {
        "rsa" => Kind::Rsa(RSA_BITS),
        "ed25519" => Kind::Other(Algorithm::Ed25519),
        "ecdsa" => Kind::Other(Algorithm::Ecdsa { curve: ssh_key::EcdsaCurve::NistP256 }),
        _ => return None,
    };
    Some(match (by_name, old.map(PublicKey::algorithm)) {
        (Kind::Rsa(_), _) => {
            let bits = old
                .and_then(|key| key.key_data().rsa())
                .and_then(|key| key.n.as_positive_bytes().map(|bytes| bytes.len() * 8));
            Kind::Rsa(bits.unwrap_or(RSA_BITS).clamp(RSA_BITS, MOST_RSA_BITS))
        }
        (Kind::Other(Algorithm::Ecdsa { .. }), Some(curve @ Algorithm::Ecdsa { .. })) => {
            Kind::Other(curve)
        }
        (kind, _) => kind,
    })
}

fn make(kind: &Kind) -> ssh_key::Result<PrivateKey> {
    match kind {
        Kind::Rsa(bits) => {
            let pair = RsaKeypair::random(&mut OsRng, *bits)?;
            PrivateKey::new(KeypairData::from(pair), "")
        }
        Kind::Other(algorithm) => PrivateKey::random(&mut OsRng, algorithm.clone()),
    }
}

fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(ssh_key::HashAlg::Sha256))
}

fn failed(why: ssh_key::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("no SSH host key could be made: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn openssh_reads_the_keys() {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            vdisk_testkit::tools::skip("ssh-keygen", "it reads the keys");
            return;
        }
        for name in ["rsa", "ecdsa", "ed25519"] {
            let key = make(&kind(&format!("/etc/ssh/ssh_host_{name}_key"), None).unwrap()).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), key.to_openssh(LineEnding::LF).unwrap()).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
            let path = file.path().to_str().unwrap();
            let public = vdisk_testkit::tools::must("ssh-keygen", &["-y", "-f", path]);
            assert_eq!(public.trim(), key.public_key().to_openssh().unwrap(), "{name}");
        }
    }
}
