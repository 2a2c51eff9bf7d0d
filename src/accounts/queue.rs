//! The queue for password hashes.
//!
//! A hash takes tens of milliseconds of a core, so few are computed at once and few may wait. Networks are served round
//! robin, so a network with many callers delays only its own. When all places are taken, a network with fewer places
//! gets one from a network with more. Against many networks with one caller each, owners have a separate queue: callers
//! known to own an account, by a sign-in from the same network, a link or a session. They go first, three times out of
//! four, with few places per account, so no account can take those of others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::config::network_of;
use crate::protocol::UserId;

/// One in this many turns is a stranger's, if one waits.
const STRANGERS_TURN: u32 = 4;
/// Maximum places of one account.
const MOST_OF_ACCOUNT: usize = 4;

/// The party for which a hash is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A network: the first 24 bits of IPv4, the first 48 of IPv6.
    Network(IpAddr),
    /// All clients without a known address, as one.
    Anybody,
    /// The probable owner of an account.
    Owner(UserId),
}

impl Caller {
    /// The network of this address.
    #[must_use]
    pub fn at(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Anybody, |address| {
            let address = address.to_canonical();
            Self::Network(network_of(address, if address.is_ipv4() { 24 } else { 48 }))
        })
    }
}

/// The holder of a place.
#[derive(Debug)]
struct Guest {
    number: u64,
    /// Whether its turn has come.
    has_begun: bool,
    waiting: Option<oneshot::Sender<Turn>>,
}

/// The places of owners or of strangers.
#[derive(Debug, Default)]
struct Places {
    most: usize,
    held: usize,
    guests: HashMap<Caller, Vec<Guest>>,
    /// Callers with waiting guests, in the order of their turns.
    rotation: VecDeque<Caller>,
}

impl Places {
    fn of(&self, caller: Caller) -> usize {
        self.guests.get(&caller).map_or(0, Vec::len)
    }

    /// Evicts a waiting guest of a caller with more places than this one. `false`: there is none.
    fn displace_for(&mut self, caller: Caller) -> bool {
        let own = self.of(caller);
        let waits = |guests: &[Guest]| guests.iter().rposition(|guest| !guest.has_begun);
        let greediest = self
            .guests
            .iter()
            .filter(|(_, guests)| guests.len() > own + 1)
            .filter_map(|(caller, guests)| Some((guests.len(), *caller, waits(guests)?)))
            .max_by_key(|(held, ..)| *held);
        let Some((_, greedy, at)) = greediest else { return false };
        if let Some(guests) = self.guests.get_mut(&greedy) {
            // Dropping the sender wakes the waiting guest.
            guests.remove(at);
            self.held -= 1;
        }
        true
    }

    fn guest(&mut self, caller: Caller, number: u64) -> Option<&mut Guest> {
        self.guests.get_mut(&caller)?.iter_mut().find(|guest| guest.number == number)
    }

    /// The next waiting guest.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(caller) = self.rotation.pop_front() {
            let Some(guests) = self.guests.get_mut(&caller) else { continue };
            let mut waiting = guests.iter_mut().filter(|guest| guest.waiting.is_some());
            let Some(guest) = waiting.next() else { continue };
            guest.has_begun = true;
            let sender = guest.waiting.take();
            if waiting.next().is_some() {
                self.rotation.push_back(caller);
            }
            return sender;
        }
        None
    }
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    numbers: u64,
    turns: u32,
    owners: Places,
    strangers: Places,
}

impl State {
    fn places(&mut self, caller: Caller) -> &mut Places {
        if matches!(caller, Caller::Owner(_)) { &mut self.owners } else { &mut self.strangers }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(STRANGERS_TURN)
            && let Some(stranger) = self.strangers.next()
        {
            return Some(stranger);
        }
        self.owners.next().or_else(|| self.strangers.next())
    }
}

/// The queue. Its size never exceeds the number of places.
#[derive(Debug)]
pub struct Queue {
    at_once: usize,
    state: Mutex<State>,
}

/// A place in the queue; returned on drop.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    caller: Caller,
    number: u64,
}

/// Permission to compute, until dropped.
#[derive(Debug)]
pub struct Turn {
    queue: Option<Arc<Queue>>,
}

impl Queue {
    /// A queue with `at_once` concurrent turns, and `places` each for owners and for strangers.
    pub fn new(at_once: usize, places: usize) -> Arc<Self> {
        let kind = || Places { most: places, ..Places::default() };
        Arc::new(Self { at_once, state: Mutex::new(State { owners: kind(), strangers: kind(), ..State::default() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place; `None`: all are taken.
    pub fn enter(self: &Arc<Self>, caller: Caller) -> Option<Place> {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        let places = state.places(caller);
        if matches!(caller, Caller::Owner(_)) && places.of(caller) >= MOST_OF_ACCOUNT {
            return None;
        }
        if places.held >= places.most && !places.displace_for(caller) {
            return None;
        }
        places.held += 1;
        places.guests.entry(caller).or_default().push(Guest { number, has_begun: false, waiting: None });
        drop(state);
        Some(Place { queue: Arc::clone(self), caller, number })
    }

    /// Hands a finished turn to the next guest.
    fn pass_on(self: &Arc<Self>) {
        let mut state = self.state();
        while let Some(next) = state.next() {
            match next.send(Turn { queue: Some(Arc::clone(self)) }) {
                Ok(()) => return,
                // It has stopped waiting. The returned turn must not pass itself on when dropped.
                Err(mut turn) => drop(turn.queue.take()),
            }
        }
        state.running -= 1;
    }
}

impl Place {
    /// Waits for a turn. `None`: the place was evicted.
    pub async fn turn(&self) -> Option<Turn> {
        let turn = {
            let mut state = self.queue.state();
            let has_room = state.running < self.queue.at_once;
            let places = state.places(self.caller);
            let guest = places.guest(self.caller, self.number)?;
            if has_room {
                guest.has_begun = true;
                state.running += 1;
                return Some(Turn { queue: Some(Arc::clone(&self.queue)) });
            }
            let (sender, turn) = oneshot::channel();
            guest.waiting = Some(sender);
            if !places.rotation.contains(&self.caller) {
                places.rotation.push_back(self.caller);
            }
            turn
        };
        turn.await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let places = state.places(self.caller);
        let Some(guests) = places.guests.get_mut(&self.caller) else { return };
        let before = guests.len();
        guests.retain(|guest| guest.number != self.number);
        let gone = before - guests.len();
        if guests.is_empty() {
            places.guests.remove(&self.caller);
        }
        places.held -= gone;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;

    fn network(n: u8) -> Caller {
        Caller::at(Some(IpAddr::from([192, 0, n, 7])))
    }

    /// Waits for a turn in a separate task, reports its name, and passes the turn on at once.
    fn wait(place: Place, name: u8, said: &mpsc::UnboundedSender<u8>) -> JoinHandle<bool> {
        let said = said.clone();
        tokio::spawn(async move {
            let turn = place.turn().await;
            if turn.is_some() {
                said.send(name).unwrap();
            }
            turn.is_some()
        })
    }

    async fn all_wait() {
        // With paused time this continues when all tasks are idle.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[test]
    fn addresses_are_parts_of_networks() {
        let at = |text: &str| Caller::at(Some(text.parse().unwrap()));
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.255"));
        assert_eq!(at("2001:db8:1:2::3"), at("2001:db8:1:ffff::"));
        assert_ne!(at("192.0.2.1"), at("192.0.3.1"));
        assert_ne!(at("2001:db8:1::"), at("2001:db8:2::"));
        assert_eq!(Caller::at(None), Caller::Anybody);
    }

    #[tokio::test(start_paused = true)]
    async fn networks_take_turns_and_owners_go_first() {
        let queue = Queue::new(1, 20);
        let (said, mut heard) = mpsc::unbounded_channel();
        let busy = queue.enter(network(0)).unwrap();
        let turn = busy.turn().await.unwrap();
        let mut tasks = Vec::new();
        for caller in [network(1), network(1), network(1), network(1), network(2), network(3)] {
            let Caller::Network(IpAddr::V4(address)) = caller else { panic!() };
            tasks.push(wait(queue.enter(caller).unwrap(), address.octets()[2], &said));
            all_wait().await;
        }
        for user in [10, 11, 12, 13] {
            tasks.push(wait(queue.enter(Caller::Owner(user.into())).unwrap(), user, &said));
            all_wait().await;
        }
        drop(turn);
        for task in tasks {
            assert!(task.await.unwrap());
        }
        let order: Vec<u8> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert_eq!(order, [10, 11, 12, 1, 13, 2, 3, 1, 1, 1]);
        assert_eq!(queue.state().running, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_more_than_others_makes_room_for_them() {
        let queue = Queue::new(1, 4);
        let (said, mut heard) = mpsc::unbounded_channel();
        let first = queue.enter(network(1)).unwrap();
        let turn = first.turn().await.unwrap();
        let flood: Vec<_> = (0..3).map(|_| wait(queue.enter(network(1)).unwrap(), 1, &said)).collect();
        all_wait().await;
        assert!(queue.enter(network(1)).is_none(), "it has all of them already");
        let others: Vec<_> = [2, 3].map(|n| wait(queue.enter(network(n)).unwrap(), n, &said)).into();
        let last = queue.enter(network(4)).expect("the last one of the flood that waits goes for it");
        assert!(queue.enter(network(5)).is_none(), "now all have the same");
        all_wait().await;
        drop(turn);
        for task in flood {
            assert!(!task.await.unwrap(), "it hears that it has no place any more");
        }
        for task in others {
            assert!(task.await.unwrap());
        }
        drop((first, last));
        assert_eq!([heard.try_recv(), heard.try_recv()], [Ok(2), Ok(3)]);
        let state = queue.state();
        assert_eq!((state.running, state.strangers.held, state.strangers.guests.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_networks_does_not_keep_an_owner_out() {
        let queue = Queue::new(1, 8);
        let crowd: Vec<_> = (0..8).map(|n| queue.enter(network(n)).unwrap()).collect();
        let turn = crowd[0].turn().await.unwrap();
        assert!(queue.enter(network(9)).is_none());
        let owner = queue.enter(Caller::Owner(1)).unwrap();
        let waiting = tokio::spawn(async move { owner.turn().await.is_some() });
        all_wait().await;
        drop(turn);
        assert!(waiting.await.unwrap());
        // An account's places are limited, so others get theirs.
        let own: Vec<_> = std::iter::from_fn(|| queue.enter(Caller::Owner(1))).collect();
        assert_eq!(own.len(), MOST_OF_ACCOUNT);
        assert!(queue.enter(Caller::Owner(2)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_holds_nothing_up() {
        let queue = Queue::new(1, 8);
        let busy = queue.enter(network(0)).unwrap();
        let turn = busy.turn().await.unwrap();
        let place = queue.enter(network(1)).unwrap();
        let gone = tokio::spawn(async move { place.turn().await.is_some() });
        let place = queue.enter(network(2)).unwrap();
        let stays = tokio::spawn(async move { place.turn().await.is_some() });
        all_wait().await;
        gone.abort();
        assert!(gone.await.is_err());
        drop(turn);
        assert!(stays.await.unwrap());
        assert!(busy.turn().await.is_some(), "one place has as many turns as it needs");
        assert_eq!(queue.state().running, 0);
    }
}
