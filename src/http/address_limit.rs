//! A concurrent limit per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module's documentation.
#[derive(Debug)]
pub struct AddressLimit {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A place in it, returned on drop.
#[derive(Debug)]
pub struct AddressPermit {
    limit: Arc<AddressLimit>,
    address: IpAddr,
}

impl AddressLimit {
    /// An empty one with `most` places per address.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this address; `None` at its limit.
    pub fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<AddressPermit> {
        let mut held = self.held();
        let of_address = held.get(&address).copied().unwrap_or(0);
        (of_address < self.most).then(|| {
            held.insert(address, of_address + 1);
            AddressPermit { limit: Arc::clone(self), address }
        })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut held = self.limit.held();
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
        let limit = AddressLimit::new(2);
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut permits = vec![limit.acquire(here).unwrap(), limit.acquire(here).unwrap()];
        assert!(limit.acquire(here).is_none());
        permits.push(limit.acquire(there).unwrap());
        permits.remove(0);
        permits.push(limit.acquire(here).unwrap());
        permits.clear();
        assert!(limit.held().is_empty());
    }
}
