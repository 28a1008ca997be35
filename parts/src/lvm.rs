//! LVM2: physical volumes.
pub(crate) const LABEL_SECTORS: [u64; 4] = [0, 1, 2, 3];
pub(crate) fn label_uuid(label: &crate::block::Block) -> Option<String> {
    let at = usize::try_from(label.u32(20)).ok()?;
    let text = label.text(at..at.checked_add(32)?)?;
    uuid_text(&text)
}
fn uuid_text(text: &str) -> Option<String> {
    let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let groups = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
    plain.then(|| groups.map(|range| text.get(range).unwrap_or_default()).join("-"))
}
