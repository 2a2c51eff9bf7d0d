//! The fuzz targets without a fuzzer: every seed, and what becomes of seeds when bytes are changed at random, the same in
//! every run. So the targets stay in step with the server, and what was found once stays found. `make fuzz` looks further;
//! `SUPERSYNC_FUZZ_SECONDS` makes each of these go on for so long.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Changed inputs of each target.
const CHANGED: usize = 300;
/// Inputs don't grow longer.
const MOST: usize = 64 * 1024;
/// Pieces that mean something to one parser or another.
const PIECES: [&[u8]; 18] = [
    b"\"",
    b"\\u0041",
    b"\\ud800",
    b"{}",
    b"[[[[",
    b"null",
    b"1e999",
    b"\"a\":",
    b"\"entities\":",
    b",",
    b"\n",
    b"\t",
    b"\\N",
    b"\\.\n",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xf0\x9f\x98\x80",
];

/// Numbers that follow each other without order (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("48 bits") % end.max(1)
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below((len - start).min(64) + 1)
    }

    /// A seed with a few changes.
    fn changed(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.range(data.len());
            match self.below(7) {
                0 => drop(data.drain(at)),
                1 => {
                    for byte in &mut data[at] {
                        *byte ^= 1 << self.below(8);
                    }
                }
                2 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    data.splice(at, piece.iter().copied());
                }
                3 => {
                    let piece = PIECES[self.below(PIECES.len())].repeat(1 + self.below(400));
                    data.splice(at.start..at.start, piece);
                }
                4 => {
                    let copy = data[at].to_vec();
                    let to = self.below(data.len() + 1);
                    data.splice(to..to, copy.repeat(1 + self.below(30)));
                }
                5 => data.truncate(at.end),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.range(other.len());
                    data.splice(at, other[from].iter().copied());
                }
            }
        }
        data.truncate(MOST);
        data
    }
}

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read(file).expect("readable"))).collect()
}

fn run(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
    for (file, data) in &seeds {
        assert!(data.len() < 16 * 1024, "{}: a seed is small", file.display());
        for end in [data.len(), data.len() / 2, data.len().saturating_sub(1)] {
            target(&data[..end]);
        }
    }
    let seeds: Vec<_> = seeds.into_iter().map(|(_, data)| data).collect();
    let seconds = std::env::var("SUPERSYNC_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random(0x5eed);
    let mut count = 0;
    while until.map_or(count < CHANGED, |until| Instant::now() < until) {
        let data = random.changed(&seeds);
        let result = std::panic::catch_unwind(|| target(&data));
        if let Err(panic) = result {
            let file = std::env::temp_dir().join(format!("supersync-fuzz-{name}"));
            std::fs::write(&file, &data).expect("written");
            eprintln!("{name}: change {count}, {} bytes, kept as {}", data.len(), file.display());
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    println!("{name}: {count} inputs");
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), targets::$name);
            }
        )+

        #[test]
        fn every_program_is_listed_here() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            let files = std::fs::read_dir(folder).expect("programs").map(|entry| entry.expect("a file").path());
            let mut names: Vec<_> =
                files.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
            names.sort();
            let mut listed = vec![$(stringify!($name)),+];
            listed.sort_unstable();
            assert_eq!(names, listed);
        }
    };
}

targets!(
    upload_body,
    snapshot_body,
    wrappers,
    json_scanner,
    replay,
    segment,
    backup_reader,
    dump_import,
    authenticator_data,
);
