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

/// Appends exactly `bytes` bytes of words; all of them are ASCII letters and spaces.
pub fn write_words(out: &mut Vec<u8>, bytes: usize, random: &mut Random) {
    let vocabulary = &**VOCABULARY;
    let end = out.len() + bytes;
    while out.len() < end {
        // The product of two even numbers prefers small ones: few words are used often, most seldom.
        let bits = random.bits();
        let (a, b) = ((bits & 0xFFF) as usize, ((bits >> 12) & 0xFFF) as usize);
        out.extend_from_slice(vocabulary[a * b / WORDS].as_bytes());
        out.push(b' ');
    }
    out.truncate(end);
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
