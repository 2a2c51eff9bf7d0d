//! Words for titles and notes: a vocabulary of made-up words, used as unevenly as real ones, so that payloads compress
//! about as well as what people write.

use std::sync::LazyLock;

use super::random::Random;

const WORDS: usize = 4096;
const SYLLABLES: [&str; 48] = [
    "an", "ba", "ber", "bo", "ca", "cal", "con", "da", "de", "der", "di", "do", "en", "er", "es", "fa", "fi", "for",
    "ga", "ge", "in", "is", "ka", "la", "le", "li", "lo", "ma", "men", "mi", "na", "ne", "no", "on", "or", "pa", "per",
    "po", "ra", "re", "ri", "sa", "se", "ta", "te", "ti", "tion", "ver",
];

static VOCABULARY: LazyLock<Vec<Box<str>>> = LazyLock::new(|| {
    let mut random = Random::new(0x5EED);
    (0..WORDS)
        .map(|_| {
            let syllables = 1 + random.below(3);
            (0..syllables).map(|_| SYLLABLES[random.below(SYLLABLES.len())]).collect::<String>().into()
        })
        .collect()
});

/// Bytes of text to copy from. So many that what one account holds hardly ever repeats, which would compress too well.
const TEXT_BYTES: usize = 4 << 20;

/// Written once: choosing words anew for every payload cost the load about 2 ns per byte, sending included.
static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let vocabulary = &**VOCABULARY;
    let mut random = Random::new(0x7E87);
    let mut text = Vec::with_capacity(TEXT_BYTES + 64);
    while text.len() < TEXT_BYTES {
        // The product of two numbers prefers small ones: few words are used often, most seldom.
        let word = random.below(WORDS) * random.below(WORDS) / WORDS;
        text.extend_from_slice(vocabulary[word].as_bytes());
        text.push(b' ');
    }
    text
});

/// Appends exactly `bytes` bytes of words; all of them are ASCII letters and spaces.
pub fn write_words(out: &mut Vec<u8>, bytes: usize, random: &mut Random) {
    let mut left = bytes;
    while left > 0 {
        let from = &TEXT[random.below(TEXT.len())..];
        let taken = &from[..left.min(from.len())];
        out.extend_from_slice(taken);
        left -= taken.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_length_that_was_asked_for() {
        for bytes in [0, 1, 7, 500] {
            let mut out = b"before".to_vec();
            write_words(&mut out, bytes, &mut Random::new(3));
            assert_eq!(out.len(), 6 + bytes);
            assert!(out[6..].iter().all(|byte| *byte == b' ' || byte.is_ascii_lowercase()));
        }
    }
}
