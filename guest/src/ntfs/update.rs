//! Update sequences: the same mark at the end of each stride of a block shows that all of it was
//! written; what stood there is kept in the block's head.

use super::{le16, put};

/// Bytes of a stride, whatever the sectors are.
const STRIDE: usize = 512;

/// Puts the ends of a block's strides back; `None` where it is torn, or not a block of this magic.
#[must_use]
pub fn opened(mut bytes: Vec<u8>, magic: &[u8; 4]) -> Option<Vec<u8>> {
    let (array, count) = (le16(&bytes, 4), le16(&bytes, 6));
    let strides = bytes.len() / STRIDE;
    if !bytes.starts_with(magic) || count != strides + 1 || array + count * 2 > STRIDE {
        return None;
    }
    let mark = le16(&bytes, array);
    for stride in 1..count {
        let end = stride * STRIDE - 2;
        let kept = *bytes.get(array + stride * 2..)?.first_chunk::<2>()?;
        if le16(&bytes, end) != mark {
            return None;
        }
        put(&mut bytes, end, &kept)?;
    }
    Some(bytes)
}

/// The block as it is written: with the next mark at the ends of its strides.
#[must_use]
pub fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let (array, count) = (le16(&bytes, 4), le16(&bytes, 6));
    let mark = match u16::from_le_bytes(super::le(&bytes, array)) {
        0xFFFE.. => 1,
        mark => mark + 1,
    };
    let mark = mark.to_le_bytes();
    put(&mut bytes, array, &mark)?;
    for stride in 1..count {
        let end = stride * STRIDE - 2;
        let kept: [u8; 2] = *bytes.get(end..)?.first_chunk()?;
        put(&mut bytes, array + stride * 2, &kept)?;
        put(&mut bytes, end, &mark)?;
    }
    Some(bytes)
}
