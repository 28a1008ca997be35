//! The hives `SAM` and `SECURITY`: the machine's own identifier, and its domain.

use vdisk_hive::Hive;

use super::registry::Node;
use super::sid::Sid;
use crate::inventory::Domain;
use crate::notes::Notes;

/// Bytes of a SID of the form `S-1-5-21-A-B-C`.
const MACHINE_SID: usize = 24;

/// The machine's SID: the last bytes of the account domain's `V`.
pub(super) fn machine_sid(sam: &Hive, notes: &Notes) -> Option<Sid> {
    let account = Node::root(sam, notes)?.open("SAM\\Domains\\Account")?;
    let value = account.data("V")?;
    let sid = value.last_chunk::<MACHINE_SID>().and_then(|bytes| Sid::parse(bytes));
    let sid = sid.filter(Sid::is_account_domain);
    if sid.is_none() {
        notes.add("SAM does not tell the machine SID where it should");
    }
    sid
}

/// The machine's SID as the local security policy has it.
pub(super) fn machine_sid_of_policy(security: &Hive, notes: &Notes) -> Option<Sid> {
    let policy = Node::root(security, notes)?.open("Policy")?;
    Sid::parse(&policy.open("PolAcDmS")?.data("")?)
}

/// The primary domain, which has a SID, or the workgroup, which has none.
pub(super) fn domain(security: &Hive, notes: &Notes) -> Option<Domain> {
    let policy = Node::root(security, notes)?.open("Policy")?;
    let data = |name: &str| policy.open(name)?.data("");
    let sid = data("PolPrDmS").and_then(|bytes| Sid::parse(&bytes));
    Some(Domain {
        joined: sid.is_some(),
        name: data("PolPrDmN").and_then(|bytes| counted_text(&bytes)),
        dns_name: data("PolDnDDN").and_then(|bytes| counted_text(&bytes)),
        sid: sid.map(|sid| sid.to_string()),
    })
}

/// A text behind its length and its place: two numbers of 16 bits, one of 32.
fn counted_text(bytes: &[u8]) -> Option<String> {
    let (head, _) = bytes.split_first_chunk::<8>()?;
    let [l0, l1, _, _, place @ ..] = *head;
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    let text = bytes.get(usize::try_from(u32::from_le_bytes(place)).ok()?..)?.get(..len)?;
    let units: Vec<u16> =
        text.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let text = String::from_utf16_lossy(&units);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::counted_text;

    #[test]
    fn texts_are_where_they_say() {
        let bytes = b"\x04\0\x06\0\x08\0\0\0A\0B\0\0\0";
        assert_eq!(counted_text(bytes).as_deref(), Some("AB"));
        assert_eq!(counted_text(b"\x04\0\x06\0\xff\xff\xff\xffA\0B\0"), None);
        assert_eq!(counted_text(b"\x40\0\x06\0\x08\0\0\0A\0"), None);
        assert_eq!(counted_text(b""), None);
    }
}
