//! Unpacking compressed bodies: gzip, and gzip in base64 as the mobile apps send it. Pure, and bounded while it works.

use std::io::{self, Read};

use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use flate2::bufread::MultiGzDecoder;

use crate::budget::Refused;

/// Output is gathered in pieces of this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Deflate can't pack more than this many bytes into one.
const MAX_RATIO: usize = 1032;

/// Why a body can't be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The gzip is larger than allowed, once freed of its base64.
    #[error("compressed payload too large")]
    CompressedTooLarge,
    /// It inflates to more than allowed.
    #[error("decompressed payload too large")]
    InflatedTooLarge,
    /// Not base64.
    #[error("not base64")]
    Base64,
    /// Not gzip, cut off, corrupt, or followed by something else.
    #[error("not gzip")]
    Gzip,
    /// There is no room for what is in it.
    #[error(transparent)]
    NoRoom(#[from] Refused),
}

/// Base64 with or without padding; unused bits are ignored.
const BASE64: GeneralPurpose = {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config.with_decode_allow_trailing_bits(true))
};

/// A text without white space, its URL-safe letters replaced by the standard ones.
struct Letters<'a>(std::slice::Iter<'a, u8>);

impl Read for Letters<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let letters = self.0.by_ref().filter(|byte| !byte.is_ascii_whitespace());
        let mut read = 0;
        for (place, letter) in buffer.iter_mut().zip(letters) {
            *place = match letter {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            };
            read += 1;
        }
        Ok(read)
    }
}

/// Decodes base64 of either alphabet, with or without padding and line breaks, to at most `cap` bytes.
///
/// # Errors
/// [`InflateError::Base64`], [`InflateError::CompressedTooLarge`].
pub fn decode_base64(text: &[u8], cap: usize) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::with_capacity((text.len() / 4 * 3 + 3).min(cap));
    let mut decoder = DecoderReader::new(Letters(text.iter()), &BASE64).take(cap as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|_| InflateError::Base64)?;
    if out.len() > cap { Err(InflateError::CompressedTooLarge) } else { Ok(out) }
}

/// Inflates gzip, of one member or several, to at most `cap` bytes. `room` is asked before memory is taken, with all the
/// bytes that the result then takes.
///
/// # Errors
/// [`InflateError::Gzip`], [`InflateError::InflatedTooLarge`] as soon as the cap is passed, [`InflateError::NoRoom`].
pub fn gunzip(
    packed: &[u8],
    cap: usize,
    room: &mut dyn FnMut(usize) -> Result<(), Refused>,
) -> Result<Vec<u8>, InflateError> {
    let mut decoder = MultiGzDecoder::new(packed);
    let expected = expected_size(packed).min(cap);
    room(expected)?;
    let mut out = Vec::with_capacity(expected);
    let mut chunk = vec![0; CHUNK_BYTES.min(cap + 1)];
    loop {
        match decoder.read(&mut chunk) {
            Ok(0) => return Ok(out),
            Ok(n) if out.len() + n > cap => return Err(InflateError::InflatedTooLarge),
            Ok(n) => {
                if out.capacity() - out.len() < n {
                    // Doubling, but not beyond the cap.
                    let grown = (out.capacity() * 2).max(CHUNK_BYTES).min(cap).max(out.len() + n);
                    // The old one is still there while it is copied.
                    room(out.capacity() + grown)?;
                    out.reserve_exact(grown - out.len());
                    room(grown)?;
                }
                out.extend_from_slice(&chunk[..n]);
            }
            Err(_) => return Err(InflateError::Gzip),
        }
    }
}

/// How much comes out, as far as it can be told beforehand: the last member says its size, and an honest single member
/// says the truth. Only a hint for the first allocation.
fn expected_size(packed: &[u8]) -> usize {
    let Some(trailer) = packed.last_chunk::<4>() else { return 0 };
    let claimed = usize::try_from(u32::from_le_bytes(*trailer)).unwrap_or(usize::MAX);
    claimed.min(packed.len().saturating_mul(MAX_RATIO))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gunzip(packed: &[u8], cap: usize) -> Result<Vec<u8>, InflateError> {
        super::gunzip(packed, cap, &mut |_| Ok(()))
    }

    #[test]
    fn room_is_asked_for_before_it_is_taken() {
        let refused = Refused { resource: crate::budget::Resource::Bodies, by_account: true };
        // The size that the trailer claims is too small, so the buffer has to grow.
        let packed = [gzip(&vec![1; 290_000]), gzip(&[2; 10])].concat();
        let mut asked = Vec::new();
        let inflated = super::gunzip(&packed, 300_000, &mut |bytes| {
            asked.push(bytes);
            if bytes > 200_000 { Err(refused) } else { Ok(()) }
        });
        assert_eq!(inflated, Err(InflateError::NoRoom(refused)));
        assert!(asked.len() > 2 && asked.iter().rev().skip(1).all(|bytes| *bytes <= 200_000), "{asked:?}");
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_cap_is_the_largest_size_that_passes() {
        let packed = gzip(&[7; 1000]);
        assert_eq!(gunzip(&packed, 1000).unwrap(), [7; 1000]);
        assert_eq!(gunzip(&packed, 999), Err(InflateError::InflatedTooLarge));
    }

    #[test]
    fn memory_never_grows_beyond_the_cap() {
        let cap = 300_000;
        // Two members: the size that the trailer claims is too small, so the buffer has to grow.
        let packed = [gzip(&vec![1; 290_000]), gzip(&[2; 10])].concat();
        let plain = gunzip(&packed, cap).unwrap();
        assert_eq!(plain.len(), 290_010);
        assert!(plain.capacity() <= cap, "{}", plain.capacity());
    }

    #[test]
    fn base64_comes_in_many_spellings() {
        let data: Vec<u8> = (0..=255).collect();
        let standard = STANDARD.encode(&data);
        let broken = standard.as_bytes().chunks(76).collect::<Vec<_>>().join(b"\r\n".as_slice());
        for text in [
            standard.clone().into_bytes(),
            standard.trim_end_matches('=').as_bytes().to_vec(),
            URL_SAFE_NO_PAD.encode(&data).into_bytes(),
            [broken.as_slice(), b"\r\n"].concat(),
        ] {
            assert_eq!(decode_base64(&text, 256).unwrap(), data, "{}", String::from_utf8_lossy(&text));
        }
        for len in 0..10 {
            assert_eq!(decode_base64(STANDARD.encode(&data[..len]).as_bytes(), len).unwrap(), data[..len]);
        }
    }

    #[test]
    fn base64_has_a_cap_and_no_other_letters() {
        assert_eq!(decode_base64(STANDARD.encode([0; 7]).as_bytes(), 6), Err(InflateError::CompressedTooLarge));
        assert_eq!(decode_base64(b"AAAA!AAA", 100), Err(InflateError::Base64));
        assert_eq!(decode_base64(b"AAAAA", 100), Err(InflateError::Base64));
        assert_eq!(decode_base64(b"AA==AA", 100), Err(InflateError::Base64));
    }
}
