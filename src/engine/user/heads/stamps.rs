//! Who wrote operations, and with which clocks, packed: a few bytes for an operation, one for most numbers, and each client
//! id once however many clocks it stands in. A head of the usual shape takes some 60 bytes with its place in the table; as a
//! struct of its own it took 400.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use crate::protocol::{ClockOrdering, Seq, VectorClock};
use crate::store::EntityHead;

/// Where a stamp begins.
pub(super) type Place = u32;

/// What a shared text takes beside its characters: two counts, and what the allocator rounds up.
const NAME_BYTES: usize = 24;

/// What a hash table takes that has room for so many entries of this size: it keeps an eighth free and a byte for each.
pub(super) fn table_bytes(capacity: usize, entry: usize) -> usize {
    capacity.div_ceil(7) * 8 * (entry + 1)
}

/// Client ids, each with a number.
#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// Their own bytes.
    bytes: usize,
}

impl Names {
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).expect("client ids are forgotten long before there are so many");
        self.list.push(Arc::clone(name));
        self.numbers.insert(Arc::clone(name), number);
        self.bytes += name.len() + NAME_BYTES;
        number
    }

    fn name(&self, number: u64) -> &Arc<str> {
        &self.list[usize::try_from(number).expect("a number that this table gave out")]
    }

    fn weight(&self) -> usize {
        self.bytes
            + self.list.capacity() * size_of::<Arc<str>>()
            + table_bytes(self.numbers.capacity(), size_of::<(Arc<str>, u32)>())
    }
}

/// Packed operations. One stands here until everything is repacked, whether a head points to it or not.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// One after the other: sequence, author and kind, number of entries, entries.
    bytes: Vec<u8>,
    names: Names,
}

/// What is packed of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Its place in the log.
    pub seq: Seq,
    /// Whether it was an additive time delta.
    pub is_time_delta: bool,
    author: u64,
    entries: usize,
    packed: &'a [u8],
    names: &'a Names,
}

impl Stamps {
    /// Packs what a head says of its operation.
    pub(super) fn add(&mut self, head: &EntityHead) -> Place {
        let place = self.end();
        let author = self.names.number(&head.client_id);
        put(&mut self.bytes, head.seq.unsigned_abs());
        put(&mut self.bytes, (u64::from(author) << 1) | u64::from(head.is_time_delta));
        put(&mut self.bytes, head.clock.len() as u64);
        for (client, counter) in head.clock.entries_shared() {
            let number = self.names.number(client);
            put(&mut self.bytes, number.into());
            put(&mut self.bytes, counter.into());
        }
        place
    }

    fn end(&self) -> Place {
        u32::try_from(self.bytes.len()).expect("an account's heads are stored and forgotten long before 4 GiB")
    }

    /// Where an operation lies in the log.
    pub(super) fn seq(&self, place: Place) -> Seq {
        seq(get(&mut self.packed(place)))
    }

    pub(super) fn stamp(&self, place: Place) -> Stamp<'_> {
        let mut packed = self.packed(place);
        let seq = seq(get(&mut packed));
        let author = get(&mut packed);
        let entries = usize::try_from(get(&mut packed)).unwrap_or(0);
        Stamp { seq, is_time_delta: author & 1 == 1, author: author >> 1, entries, packed, names: &self.names }
    }

    fn packed(&self, place: Place) -> &[u8] {
        usize::try_from(place).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }

    /// Only these, in memory that fits, and where each is then.
    pub(super) fn kept<'a>(&self, places: impl Iterator<Item = &'a mut Place>) -> Self {
        let mut kept = Self::default();
        let mut moved: HashMap<Place, Place> = HashMap::new();
        for place in places {
            *place = *moved.entry(*place).or_insert_with_key(|old| kept.add(&self.stamp(*old).head()));
        }
        kept.bytes.shrink_to_fit();
        kept
    }

    /// Bytes that this takes.
    pub(super) fn weight(&self) -> usize {
        self.bytes.capacity() + self.names.weight()
    }
}

impl<'a> Stamp<'a> {
    /// Who wrote it.
    #[must_use]
    pub fn client_id(&self) -> &'a Arc<str> {
        self.names.name(self.author)
    }

    /// How a clock stands to the operation's.
    #[must_use]
    pub fn compared_with(&self, clock: &VectorClock) -> ClockOrdering {
        clock.compare_to(self.entries().map(|(client, counter)| (&**client, counter)))
    }

    /// Unpacked.
    #[must_use]
    pub fn head(&self) -> EntityHead {
        EntityHead {
            seq: self.seq,
            client_id: Arc::clone(self.client_id()),
            clock: VectorClock::from_entries(self.entries().map(|(client, counter)| (Arc::clone(client), counter))),
            is_time_delta: self.is_time_delta,
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&'a Arc<str>, u32)> + use<'a> {
        let (mut packed, names) = (self.packed, self.names);
        (0..self.entries).map(move |_| {
            let client = names.name(get(&mut packed));
            (client, u32::try_from(get(&mut packed)).unwrap_or(u32::MAX))
        })
    }
}

/// Seven bits to a byte, the lowest ones first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn get(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((first, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            break;
        }
        shift += 7;
    }
    number
}

fn seq(number: u64) -> Seq {
    Seq::try_from(number).unwrap_or(Seq::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: Seq, client: &str, clock: &[(&str, u32)]) -> EntityHead {
        let clock = VectorClock::from_entries(clock.iter().map(|(client, counter)| ((*client).into(), *counter)));
        EntityHead { seq, client_id: client.into(), clock, is_time_delta: seq % 2 == 1 }
    }

    #[test]
    fn what_is_packed_comes_back_and_names_are_kept_once() {
        let heads = [
            head(1, "A", &[("A", 1)]),
            head(300, "B", &[("A", u32::MAX), ("B", 0), ("ü", 128)]),
            head(Seq::MAX, "A", &[]),
        ];
        let mut stamps = Stamps::default();
        let places: Vec<Place> = heads.iter().map(|head| stamps.add(head)).collect();
        for (place, head) in places.iter().zip(&heads) {
            assert_eq!(stamps.stamp(*place).head(), *head);
            assert_eq!(stamps.seq(*place), head.seq);
            for other in &heads {
                assert_eq!(stamps.stamp(*place).compared_with(&other.clock), other.clock.compare(&head.clock));
            }
        }
        assert_eq!(stamps.names.list.len(), 3);
        let mut kept = [places[1], places[1]];
        let fewer = stamps.kept(kept.iter_mut());
        assert_eq!((kept[0], kept[1]), (0, 0));
        assert_eq!(fewer.stamp(0).head(), heads[1]);
        assert!(fewer.weight() < stamps.weight());
    }
}
