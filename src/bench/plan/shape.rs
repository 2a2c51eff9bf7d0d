//! What a capacity plan starts from: who uses the service, and what a unit of that use costs.
//!
//! Every number has a default and can be changed one by one: the shape on the command line, the prices from a file of
//! measured ones.

use clap::Args;
use serde::{Deserialize, Serialize};

/// Who uses the service, and how much.
///
/// The defaults describe the hosted instance: 12,000 accounts with 10 million operations. What nobody has published
/// about it is an assumption and marked as one.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Operations kept per account.
    #[arg(long, value_name = "N", default_value_t = 833.0)]
    pub ops_per_account: f64,
    /// Newest operations of an account that are still rows, because they are not old enough to be sealed.
    #[arg(long, value_name = "N", default_value_t = 200.0)]
    pub hot_ops_per_account: f64,
    /// Entities per account: each has one head row.
    #[arg(long, value_name = "N", default_value_t = 300.0)]
    pub entities_per_account: f64,
    /// Devices per account.
    #[arg(long, value_name = "N", default_value_t = 2.5)]
    pub devices_per_account: f64,
    /// Share of the day for which a device runs the app (assumption).
    #[arg(long, value_name = "SHARE", default_value_t = 0.33)]
    pub awake_share: f64,
    /// Share of the running devices that hold a socket open (assumption: mobile systems close some).
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    pub socket_share: f64,
    /// Seconds between polls of a device without a socket.
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub poll_s: f64,
    /// Seconds between polls of a device with a socket.
    #[arg(long, value_name = "S", default_value_t = 300.0)]
    pub poll_with_socket_s: f64,
    /// Uploads per device and day (assumption; with the polls above about 2 % of the requests).
    #[arg(long, value_name = "N", default_value_t = 4.0)]
    pub uploads_per_device_day: f64,
    /// Operations per upload (assumption).
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    pub ops_per_upload: f64,
    /// Times per day that a device starts the app (assumption). The first request finds the account idle.
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    pub starts_per_device_day: f64,
    /// Devices per account and month that download all of its log.
    #[arg(long, value_name = "N", default_value_t = 0.2)]
    pub fresh_devices_per_account_month: f64,
    /// Bytes of an operation on the wire, as JSON.
    #[arg(long, value_name = "BYTES", default_value_t = 800.0)]
    pub op_wire_bytes: f64,
    /// Busiest hour to the day's mean. Running devices never exceed all devices.
    #[arg(long, value_name = "FACTOR", default_value_t = 2.5)]
    pub peak_to_mean: f64,
    /// Share of each resource that stays free in the busiest hour.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub headroom: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            ops_per_account: 833.0,
            hot_ops_per_account: 200.0,
            entities_per_account: 300.0,
            devices_per_account: 2.5,
            awake_share: 0.33,
            socket_share: 0.8,
            poll_s: 60.0,
            poll_with_socket_s: 300.0,
            uploads_per_device_day: 4.0,
            ops_per_upload: 3.0,
            starts_per_device_day: 3.0,
            fresh_devices_per_account_month: 0.2,
            op_wire_bytes: 800.0,
            peak_to_mean: 2.5,
            headroom: 0.5,
        }
    }
}

/// A number that a plan can't start from.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {must}")]
pub struct BadInput {
    name: &'static str,
    value: f64,
    must: &'static str,
}

/// The first of some numbers that a test refuses.
fn check(numbers: &[(&'static str, f64)], must: &'static str, fits: impl Fn(f64) -> bool) -> Result<(), BadInput> {
    match numbers.iter().find(|(_, value)| !value.is_finite() || !fits(*value)) {
        Some(&(name, value)) => Err(BadInput { name, value, must }),
        None => Ok(()),
    }
}

impl Shape {
    /// Whether a plan can be made from it.
    ///
    /// # Errors
    /// Names the first number that is out of bounds.
    pub fn check(&self) -> Result<(), BadInput> {
        check(&[("awake-share", self.awake_share), ("socket-share", self.socket_share)], "from 0 to 1", |share| {
            (0.0..=1.0).contains(&share)
        })?;
        check(&[("headroom", self.headroom)], "from 0 to less than 1", |share| (0.0..1.0).contains(&share))?;
        check(&[("peak-to-mean", self.peak_to_mean)], "1 or more", |factor| factor >= 1.0)?;
        check(&[("poll-s", self.poll_s), ("poll-with-socket-s", self.poll_with_socket_s)], "more than 0", |s| s > 0.0)?;
        check(
            &[
                ("ops-per-account", self.ops_per_account),
                ("hot-ops-per-account", self.hot_ops_per_account),
                ("entities-per-account", self.entities_per_account),
                ("devices-per-account", self.devices_per_account),
                ("uploads-per-device-day", self.uploads_per_device_day),
                ("ops-per-upload", self.ops_per_upload),
                ("starts-per-device-day", self.starts_per_device_day),
                ("fresh-devices-per-account-month", self.fresh_devices_per_account_month),
                ("op-wire-bytes", self.op_wire_bytes),
            ],
            "0 or more",
            |number| number >= 0.0,
        )
    }
}

/// What a unit of work or of storage costs: measured, on one core of the machine that `machine` names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Where the numbers come from.
    pub source: String,
    /// Server CPU per poll with nothing new, µs.
    pub poll_server_us: f64,
    /// Server CPU per upload, without its operations, µs.
    pub upload_server_us: f64,
    /// … and per operation of it, µs.
    pub upload_op_server_us: f64,
    /// Database CPU per upload, without its operations, µs.
    pub upload_db_us: f64,
    /// … and per operation of it, µs.
    pub upload_op_db_us: f64,
    /// Server CPU per download of a few new operations, µs.
    pub tail_server_us: f64,
    /// … and per operation of it, µs.
    pub tail_op_server_us: f64,
    /// Server CPU per page of 500 operations, µs.
    pub page_server_us: f64,
    /// Database CPU per page of 500 operations, µs.
    pub page_db_us: f64,
    /// Server CPU to take up an idle account, µs.
    pub activation_server_us: f64,
    /// Database CPU to take up an idle account, µs.
    pub activation_db_us: f64,
    /// Server CPU per notice to one socket, µs.
    pub notice_server_us: f64,
    /// One durable commit without rows, ms: the disk's flush and the round trip.
    pub commit_ms: f64,
    /// Server's memory at rest, bytes.
    pub rest_bytes: f64,
    /// Server's memory per idle socket, bytes.
    pub socket_bytes: f64,
    /// Server's memory per live account, bytes.
    pub live_account_bytes: f64,
    /// … and more for one that has uploaded lately: its actor, tail and remembered answers, bytes.
    pub writer_bytes: f64,
    /// Server's memory per head that such an account keeps, bytes.
    pub head_memory_bytes: f64,
    /// Disk per operation that is a row, all indexes, bytes.
    pub row_bytes: f64,
    /// Disk per sealed operation, bytes.
    pub sealed_bytes: f64,
    /// Disk per head row with its index entry, bytes.
    pub head_bytes: f64,
    /// Disk per account without its operations: account, state, devices, bytes.
    pub account_bytes: f64,
    /// Write-ahead log per upload without its operations, bytes; whole-page images included.
    pub wal_upload_bytes: f64,
    /// … and per operation of it, bytes.
    pub wal_op_bytes: f64,
    /// A request and its answer on the network without operations, bytes; TLS and TCP/IP included.
    pub request_wire_bytes: f64,
    /// What the answers' operations shrink to on the wire, share.
    pub wire_compression: f64,
}

impl Default for Prices {
    /// Rates and memory as first measured on two cores (AMD EPYC, PostgreSQL 15 with its defaults) turned into costs; what
    /// nobody had measured yet (activation, sealed operations, log and network bytes) is estimated high. A benchmark run
    /// replaces what it measures: `supersync bench report`, `--figures`.
    fn default() -> Self {
        Self {
            source: "built in, on two cores of an AMD EPYC server with PostgreSQL 15; partly estimated".to_owned(),
            poll_server_us: 30.0,
            upload_server_us: 50.0,
            upload_op_server_us: 8.0,
            upload_db_us: 60.0,
            upload_op_db_us: 12.0,
            tail_server_us: 40.0,
            tail_op_server_us: 1.0,
            page_server_us: 700.0,
            page_db_us: 1_500.0,
            activation_server_us: 100.0,
            activation_db_us: 150.0,
            notice_server_us: 10.0,
            commit_ms: 1.0,
            rest_bytes: 30.0 * 1024.0 * 1024.0,
            socket_bytes: 12.0 * 1024.0,
            live_account_bytes: 24.0 * 1024.0,
            writer_bytes: 24.0 * 1024.0,
            head_memory_bytes: 62.0,
            row_bytes: 950.0,
            sealed_bytes: 300.0,
            head_bytes: 170.0,
            account_bytes: 1_200.0,
            wal_upload_bytes: 500.0,
            wal_op_bytes: 1_500.0,
            request_wire_bytes: 1_200.0,
            wire_compression: 0.5,
        }
    }
}

impl Prices {
    /// Whether a plan can be made from them.
    ///
    /// # Errors
    /// Names the first number that is out of bounds.
    pub fn check(&self) -> Result<(), BadInput> {
        check(
            &[
                ("poll_server_us", self.poll_server_us),
                ("upload_server_us", self.upload_server_us),
                ("upload_op_server_us", self.upload_op_server_us),
                ("upload_db_us", self.upload_db_us),
                ("upload_op_db_us", self.upload_op_db_us),
                ("tail_server_us", self.tail_server_us),
                ("tail_op_server_us", self.tail_op_server_us),
                ("page_server_us", self.page_server_us),
                ("page_db_us", self.page_db_us),
                ("activation_server_us", self.activation_server_us),
                ("activation_db_us", self.activation_db_us),
                ("notice_server_us", self.notice_server_us),
                ("commit_ms", self.commit_ms),
                ("rest_bytes", self.rest_bytes),
                ("socket_bytes", self.socket_bytes),
                ("live_account_bytes", self.live_account_bytes),
                ("writer_bytes", self.writer_bytes),
                ("head_memory_bytes", self.head_memory_bytes),
                ("row_bytes", self.row_bytes),
                ("sealed_bytes", self.sealed_bytes),
                ("head_bytes", self.head_bytes),
                ("account_bytes", self.account_bytes),
                ("wal_upload_bytes", self.wal_upload_bytes),
                ("wal_op_bytes", self.wal_op_bytes),
                ("request_wire_bytes", self.request_wire_bytes),
                ("wire_compression", self.wire_compression),
            ],
            "0 or more",
            |number| number >= 0.0,
        )
    }
}

/// Up to where one primary database goes before the accounts are divided among several.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Cores of the largest database machine that one wants to run.
    #[arg(long, value_name = "N", default_value_t = 32.0)]
    pub primary_cores: f64,
    /// Disk of one primary, GiB: what can be backed up and brought back in the time that one may be down.
    #[arg(long, value_name = "GIB", default_value_t = 2_048.0)]
    pub primary_disk_gib: f64,
    /// Write-ahead log of one primary, MB/s: what a replica and an archive keep up with.
    #[arg(long, value_name = "MB", default_value_t = 100.0)]
    pub primary_wal_mb_per_s: f64,
    /// Disk operations of one primary per second.
    #[arg(long, value_name = "N", default_value_t = 20_000.0)]
    pub primary_iops: f64,
    /// Memory of the largest database machine that one wants to run, GiB.
    #[arg(long, value_name = "GIB", default_value_t = 256.0)]
    pub primary_memory_gib: f64,
    /// Commit lanes per instance of the server.
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub lanes: f64,
    /// Cores of one instance of the server.
    #[arg(long, value_name = "N", default_value_t = 8.0)]
    pub instance_cores: f64,
    /// Memory of one instance of the server, GiB.
    #[arg(long, value_name = "GIB", default_value_t = 32.0)]
    pub instance_gib: f64,
    /// Operations that one commit takes at most.
    #[arg(long, value_name = "N", default_value_t = 2_000.0)]
    pub group_ops: f64,
    /// Uploads that one commit takes at most.
    #[arg(long, value_name = "N", default_value_t = 256.0)]
    pub group_uploads: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            primary_cores: 32.0,
            primary_disk_gib: 2_048.0,
            primary_wal_mb_per_s: 100.0,
            primary_iops: 20_000.0,
            primary_memory_gib: 256.0,
            lanes: 2.0,
            instance_cores: 8.0,
            instance_gib: 32.0,
            group_ops: 2_000.0,
            group_uploads: 256.0,
        }
    }
}

impl Limits {
    /// Whether a plan can be made from them.
    ///
    /// # Errors
    /// Names the first number that is out of bounds.
    pub fn check(&self) -> Result<(), BadInput> {
        check(
            &[
                ("primary-cores", self.primary_cores),
                ("primary-disk-gib", self.primary_disk_gib),
                ("primary-wal-mb-per-s", self.primary_wal_mb_per_s),
                ("primary-iops", self.primary_iops),
                ("primary-memory-gib", self.primary_memory_gib),
                ("instance-gib", self.instance_gib),
                ("lanes", self.lanes),
                ("instance-cores", self.instance_cores),
                ("group-ops", self.group_ops),
                ("group-uploads", self.group_uploads),
            ],
            "more than 0",
            |number| number > 0.0,
        )
    }
}
