//! Keys and certificates as text, through buffers that are wiped.

use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

pub(super) const KEY: &str = "PRIVATE KEY";
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

pub(super) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let bytes = pem_rfc7468::encoded_len(label, LineEnding::LF, der).unwrap_or_default();
    let mut buffer = Zeroizing::new(vec![0; bytes]);
    // Room was made for exactly this text, and both labels are well formed.
    let text = pem_rfc7468::encode(label, LineEnding::LF, der, &mut buffer).unwrap_or_default();
    Zeroizing::new(text.to_owned())
}

/// The bytes of the only block in `text`, when it has this label.
pub(super) fn decode(label: &str, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; text.len()]);
    match pem_rfc7468::decode(text, &mut buffer) {
        Ok((found, der)) if found == label => Some(Zeroizing::new(der.to_vec())),
        _ => None,
    }
}
