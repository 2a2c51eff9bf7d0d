//! Words for titles and notes: a vocabulary of made-up words, used as unevenly as real ones, so that payloads compress
//! about as well as what people write.

use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const WORDS: usize = 4096;
const SYLLABLES: [&str; 48] = [
    "an", "ba", "ber", "bo", "ca", "cal", "con", "da", "de", "der", "di", "do", "en", "er", "es", "fa", "fi", "for",
    "ga", "ge", "in", "is", "ka", "la", "le", "li", "lo", "ma", "men", "mi", "na", "ne", "no", "on", "or", "pa", "per",
    "po", "ra", "re", "ri", "sa", "se", "ta", "te", "ti", "tion", "ver",
];
/// Bytes of text to copy from. So many that what one account holds hardly ever repeats, which would compress too well.
const TEXT_BYTES: usize = 4 << 20;

/// Written once: choosing words for every payload would cost the load more than sending it.
static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = StdRng::seed_from_u64(0x5EED);
    let mut word = || {
        let syllables = random.random_range(1..=3);
        (0..syllables).map(|_| SYLLABLES[random.random_range(0..SYLLABLES.len())]).collect::<String>()
    };
    let vocabulary: Vec<String> = (0..WORDS).map(|_| word()).collect();
    let mut text = Vec::with_capacity(TEXT_BYTES + 64);
    while text.len() < TEXT_BYTES {
        // The product of two numbers prefers small ones: few words are used often, most seldom.
        let word = random.random_range(0..WORDS) * random.random_range(0..WORDS) / WORDS;
        text.extend_from_slice(vocabulary[word].as_bytes());
        text.push(b' ');
    }
    text
});

/// Appends exactly `bytes` bytes of words; all of them are ASCII letters and spaces.
pub fn write_words(out: &mut Vec<u8>, bytes: usize, random: &mut StdRng) {
    let mut left = bytes;
    while left > 0 {
        let from = &TEXT[random.random_range(0..TEXT.len())..];
        let taken = &from[..left.min(from.len())];
        out.extend_from_slice(taken);
        left -= taken.len();
    }
}
