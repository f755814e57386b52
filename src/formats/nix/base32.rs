//! Nix's base-32: digits and letters without e, o, t and u, least significant bits last, printed from
//! the end of the hash to its start.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

pub fn encode(bytes: &[u8]) -> String {
    let len = (bytes.len() * 8).div_ceil(5);
    (0..len)
        .rev()
        .map(|n| {
            let bit = n * 5;
            let (i, j) = (bit / 8, bit % 8);
            let low = bytes[i] >> j;
            let high = if j > 3 { bytes.get(i + 1).map_or(0, |b| b << (8 - j)) } else { 0 };
            ALPHABET[usize::from((low | high) & 31)] as char
        })
        .collect()
}

/// `None` when the text has another length or letter, or bits beyond the hash.
pub fn decode(text: &str, size: usize) -> Option<Vec<u8>> {
    if text.len() != (size * 8).div_ceil(5) {
        return None;
    }
    let mut out = vec![0u8; size];
    for (n, c) in text.bytes().rev().enumerate() {
        let digit = ALPHABET.iter().position(|a| *a == c)? as u16;
        let bit = n * 5;
        let (i, j) = (bit / 8, bit % 8);
        let wide = digit << j;
        out[i] |= (wide & 0xff) as u8;
        let carry = (wide >> 8) as u8;
        match out.get_mut(i + 1) {
            Some(next) => *next |= carry,
            None if carry != 0 => return None,
            None => {}
        }
    }
    Some(out)
}
