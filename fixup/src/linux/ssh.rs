//! SSH host keys, made anew: not every system makes missing ones, and a server without any does
//! not start.

use ssh_key::private::{KeypairData, PrivateKey, RsaKeypair};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PublicKey};
use vdisk_core::{Error, ErrorKind, Result};

use super::tree::Tree;
use crate::{Action, Plan};

const ID: &str = "linux.ssh-host-keys";
/// What OpenSSH makes, and the most that is made for one that has more.
const RSA_BITS: usize = 3072;
const MOST_RSA_BITS: usize = 8192;

/// Writes a new key over each that is there, of the same kind.
///
/// # Errors
/// The volume's.
pub(super) fn renew(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    for path in tree.glob("/etc/ssh/ssh_host_*_key")? {
        let public_path = format!("{path}.pub");
        let old =
            tree.text(&public_path)?.and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let Some(kind) = kind(&path, old.as_ref()) else {
            remove(tree, &path, plan)?;
            continue;
        };
        let comment = old.as_ref().map(|key| key.comment().to_owned()).unwrap_or_default();
        let mut key = make(&kind).map_err(failed)?;
        key.set_comment(comment);
        let secret = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let public = key.public_key().to_openssh().map_err(failed)?;
        tree.wipe(&path)?;
        tree.write(&path, secret.as_bytes(), 0o600)?;
        tree.write(&public_path, format!("{public}\n").as_bytes(), 0o644)?;
        let mut action = Action::new(ID, "make a new host key", path)
            .why("whoever has the old one could pass for both machines")
            .after(fingerprint(key.public_key()));
        action.before = old.as_ref().map(fingerprint);
        plan.act(action);
    }
    Ok(())
}

/// Certificates, and keys of kinds that OpenSSH no longer has.
fn remove(tree: &mut Tree<'_>, path: &str, plan: &mut Plan) -> Result<()> {
    for path in [path.to_owned(), format!("{path}.pub")] {
        if tree.stat(&path)?.is_some() {
            tree.wipe(&path)?;
            tree.remove(&path)?;
            let why = "it is of a kind that is not made any more";
            plan.act(Action::new(ID, "remove a host key", path).why(why).before("there"));
        }
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
