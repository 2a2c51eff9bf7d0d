//! From the shape of the use to rates: how often per second what happens.

use serde::Serialize;

use super::shape::Shape;

const DAY_S: f64 = 86_400.0;
/// Operations in a page of a long download.
pub(super) const PAGE_OPS: f64 = 500.0;

/// When a rate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Over the whole day.
    Mean,
    /// In the busiest hour.
    Peak,
}

/// What a number of accounts asks of the service, per second unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Demand {
    /// Devices that run the app.
    pub running_devices: f64,
    /// Open sockets.
    pub sockets: f64,
    /// Accounts with at least one running device.
    pub live_accounts: f64,
    /// Polls with nothing new.
    pub polls: f64,
    /// Uploads.
    pub uploads: f64,
    /// Operations in these uploads.
    pub ops: f64,
    /// Downloads of what another device uploaded: each upload reaches each other device of its account once.
    pub tails: f64,
    /// Operations in these downloads.
    pub delivered_ops: f64,
    /// Notices to sockets.
    pub notices: f64,
    /// First requests of a device that starts the app.
    pub starts: f64,
    /// Pages of devices that download the whole log.
    pub pages: f64,
}

impl Demand {
    /// What `accounts` accounts of this shape ask for.
    #[must_use]
    pub fn of(shape: &Shape, accounts: f64, when: When) -> Self {
        let factor = match when {
            When::Mean => 1.0,
            When::Peak => shape.peak_to_mean,
        };
        let devices = accounts * shape.devices_per_account;
        let running_share = (shape.awake_share * factor).min(1.0);
        let running_devices = devices * running_share;
        let others = (shape.devices_per_account - 1.0).max(0.0);
        let uploads = devices * shape.uploads_per_device_day / DAY_S * factor;
        let ops = uploads * shape.ops_per_upload;
        let joins = accounts * shape.fresh_devices_per_account_month / 30.0 / DAY_S * factor;
        Self {
            running_devices,
            sockets: running_devices * shape.socket_share,
            live_accounts: accounts * (1.0 - (1.0 - running_share).powf(shape.devices_per_account)),
            polls: running_devices
                * (shape.socket_share / shape.poll_with_socket_s + (1.0 - shape.socket_share) / shape.poll_s),
            uploads,
            ops,
            tails: uploads * others,
            delivered_ops: ops * others,
            notices: uploads * others * running_share * shape.socket_share,
            starts: devices * shape.starts_per_device_day / DAY_S * factor,
            pages: joins * (shape.ops_per_account / PAGE_OPS).ceil(),
        }
    }

    /// Requests per second.
    #[must_use]
    pub fn requests(&self) -> f64 {
        self.polls + self.uploads + self.tails + self.starts + self.pages
    }
}
