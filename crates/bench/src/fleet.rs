//! Many devices: how they share connections, and how their accounts are filled before a measurement.

use super::device::Device;
use super::error::{BenchError, Result};
use super::session::Session;

/// Deals something out to so many connections, or fewer when there is too little of it.
#[must_use]
pub fn deal<T>(things: Vec<T>, connections: usize) -> Vec<Vec<T>> {
    let hands = connections.min(things.len());
    let mut dealt: Vec<Vec<T>> = (0..hands).map(|_| Vec::new()).collect();
    for (n, thing) in things.into_iter().enumerate() {
        dealt[n % hands].push(thing);
    }
    dealt
}

/// Lets every device upload so many operations, in requests of at most 100, and gives the devices back.
///
/// # Errors
/// When a connection breaks or something is not accepted.
pub async fn fill(
    session: &Session,
    devices: Vec<Device>,
    operations: usize,
    connections: usize,
) -> Result<Vec<Device>> {
    let hands = deal(devices, connections);
    let tasks = hands.into_iter().map(|mut devices| async move {
        let mut connection = session.connect().await?;
        let mut request = Vec::new();
        for device in &mut devices {
            let mut left = operations;
            while left > 0 {
                let batch = left.min(100);
                request.clear();
                device.write_upload(&mut request, batch);
                device.read_upload(connection.send(&request).await?)?;
                left -= batch;
            }
        }
        Ok::<_, BenchError>(devices)
    });
    Ok(futures_util::future::try_join_all(tasks).await?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_dealt_and_nobody_gets_nothing() {
        assert_eq!(deal((0..5).collect(), 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(deal((0..2).collect(), 8), [vec![0], vec![1]]);
        assert!(deal(Vec::<u8>::new(), 8).is_empty());
    }
}
