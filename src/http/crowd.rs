//! A concurrent limit per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module's documentation.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A place in it, returned on drop.
#[derive(Debug)]
pub struct Member {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    /// An empty one with `most` places per address.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this address; `None` at its limit.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Member> {
        let mut held = self.held();
        let of_address = held.get(&address).copied().unwrap_or(0);
        (of_address < self.most).then(|| {
            held.insert(address, of_address + 1);
            Member { crowd: Arc::clone(self), address }
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut held = self.crowd.held();
        if let Some(of_address) = held.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_and_nobody_is_remembered() {
        let crowd = Crowd::new(2);
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut members = vec![crowd.enter(here).unwrap(), crowd.enter(here).unwrap()];
        assert!(crowd.enter(here).is_none());
        members.push(crowd.enter(there).unwrap());
        members.remove(0);
        members.push(crowd.enter(here).unwrap());
        members.clear();
        assert!(crowd.held().is_empty());
    }
}
