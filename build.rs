//! Rebuilds when a migration is added: the compiler by itself only notices changes of the files that it embedded last
//! time.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
