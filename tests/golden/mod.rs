//! Sparse images of the container, as fixtures keep them: total length `u64` big-endian, then per page that is not all zero its
//! number `u64` big-endian and 4 096 bytes.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

const PAGE_BYTES: usize = 4_096;

pub fn fixture(directory: &str, name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", directory, name].iter().collect()
}

pub fn sparse(image: &[u8]) -> Vec<u8> {
    let mut bytes = (image.len() as u64).to_be_bytes().to_vec();
    for (number, page) in image.chunks(PAGE_BYTES).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            bytes.extend((number as u64).to_be_bytes());
            bytes.extend(page);
            bytes.resize(bytes.len() + PAGE_BYTES - page.len(), 0);
        }
    }
    bytes
}

pub fn whole(sparse: &[u8]) -> Vec<u8> {
    let (length, pages) = sparse.split_first_chunk::<8>().unwrap();
    let length = usize::try_from(u64::from_be_bytes(*length)).unwrap();
    let mut image = vec![0; length.next_multiple_of(PAGE_BYTES)];
    for page in pages.chunks_exact(8 + PAGE_BYTES) {
        let number = usize::try_from(u64::from_be_bytes(page[..8].try_into().unwrap())).unwrap();
        image[number * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page[8..]);
    }
    image.truncate(length);
    image
}
