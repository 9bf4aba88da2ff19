//! Emulated devices: each a task with a flash, a wake and connections of its own.
//!
//! They share the process, the store in which their flash lies, and nothing that devices in the
//! field would not share. The operator who brings their labels to the platform works here too.

mod account;
mod cables;
mod complaints;
mod dock;
mod labels;
mod life;
mod operator;
mod shelf;
mod uplink;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claviger_device::Profile;
use claviger_net::{http, tls};
use claviger_store::StoreError;
use claviger_units::{Eui64, MacAddr, Span};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::account::DevicesAccount;

use self::account::Account;
use self::cables::Cables;
use self::complaints::Complaints;
use self::life::Surroundings;
use self::operator::Operator;
use self::shelf::Shelf;
use self::uplink::Uplink;
use crate::config::DevicesConfig;
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};

/// Runs emulated devices until the signal to stop; those that are awake then finish their wake.
pub async fn run(config: DevicesConfig, folder: Folder, context: Context) -> Result<(), RoleError> {
    let (identity, authority) = folder.identity()?;
    let shelf = Shelf::open(&folder)?;
    let numbers = config.numbers.clone();
    let now = context.clock.now();
    let (cables, carrier) = match config.lan {
        Some(lan) => {
            let (cables, carrier) = Cables::lay(&lan.to_string());
            (Some(cables), Some(carrier))
        }
        None => (None, None),
    };
    let operator = config.platform_url.as_ref().map(|url| {
        let client = http::Client::new(&tls::client_mutual(&identity, &authority));
        Operator::new(url, client, context.clone())
    });
    let by_hand = operator.is_none().then(|| folder.file(labels::NAME));
    let surroundings = Arc::new(Surroundings {
        shelf: shelf.clone(),
        operator,
        profiles: profiles(&config),
        uplink: uplink(&config, tls::client_constrained(&authority)),
        cables,
        dock: config.dock.clone().map(|path| (path, config.pad_keys)),
        dkg_peer: config.dkg_peer,
        exchanges: Semaphore::new(EXCHANGES),
        account: Account::new(numbers.clone().count(), oldest_key(&config)),
        strangers: Complaints::quiet_until(now + ADOPTION_TIME),
        refusals: Complaints::quiet_until(now),
        context,
    });
    let carried = async {
        match carrier {
            Some(carrier) => carrier.run().await,
            None => std::future::pending().await,
        }
    };
    let kept = folder.file(account::NAME);
    let ended = tokio::select! {
        ended = live(numbers, by_hand, &surroundings) => ended,
        never = surroundings.account.keep(&kept) => match never {},
        () = carried => Err(RoleError::Lost("cables".to_owned())),
    };
    shelf.stop().await;
    surroundings.account.write(&kept);
    ended
}

async fn live(
    numbers: RangeInclusive<u32>,
    by_hand: Option<PathBuf>,
    surroundings: &Arc<Surroundings>,
) -> Result<(), RoleError> {
    let Context { shutdown, reports, .. } = &surroundings.context;
    surroundings.shelf.make_missing(numbers.clone()).await?;
    if let Some(path) = by_hand {
        labels::hand_out(&surroundings.shelf, numbers.clone().map(eui_of), &path).await?;
    }
    let mut devices = JoinSet::new();
    for (number, profile) in numbers.zip(surroundings.profiles.iter().cycle()) {
        devices.spawn(life::live(Arc::clone(surroundings), eui_of(number), *profile));
    }
    reports.tell(Report::Ready("devices"));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = surroundings.shelf.ended() => return Err(StoreError::Stopped.into()),
        ended = all_of(&mut devices) => {
            // No device works any more, each has said why.
            ended?;
            shutdown.cancelled().await;
        }
    }
    match tokio::time::timeout(GRACE, all_of(&mut devices)).await {
        Ok(ended) => ended,
        Err(_) => {
            let n_awake = devices.len();
            tracing::warn!(n_awake, "devices are cut off in the middle of a wake");
            Ok(())
        }
    }
}

async fn all_of(devices: &mut JoinSet<Result<(), StoreError>>) -> Result<(), RoleError> {
    while let Some(ended) = devices.join_next().await {
        match ended.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(ended) => ended?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => {} // cut off, which only dropping the set does
        }
    }
    Ok(())
}

/// Returns the name of the device with this number, counted from 1: the locally administered MAC
/// address `02:00:5e:10:hh:ll` as EUI-64; above 65535 the number goes on in the byte before.
fn eui_of(number: u32) -> Eui64 {
    let [_, high, middle, low] = (0x10_0000 + number).to_be_bytes();
    Eui64::from(MacAddr::from_bytes([0x02, 0x00, 0x5e, high, middle, low]))
}

/// Keys come within seconds of a network's first start, so that no device should wait for long;
/// but a large fleet without keys must not drown its gateway in requests.
fn profiles(config: &DevicesConfig) -> Vec<Profile> {
    let n_devices = config.numbers.clone().count() as u64;
    let crowd = Span::from_millis(10 * n_devices);
    let with = |path| Profile {
        longest_pause: crowd.max(Span::from_secs(5)),
        path,
        renew_period: config.renew.unwrap_or(Span::ZERO),
        max_age: config.max_age,
        at_boot: config.at_boot,
        ..Profile::waking_every(config.wake)
    };
    config.paths.iter().copied().map(with).collect()
}

/// How old a key may be at the end of a wake: its time, and one wake more.
fn oldest_key(config: &DevicesConfig) -> Option<Span> {
    let with_wake = |renew: Span| Span::from_micros(renew.as_micros() + config.wake.as_micros());
    config.renew.map(with_wake)
}

fn uplink(config: &DevicesConfig, tls: Arc<ClientConfig>) -> Uplink {
    let authority = config.gateway_url.trim_start_matches("https://");
    let named =
        authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, keys) = named.unwrap_or((authority, HTTPS));
    Uplink {
        host: host.to_owned(),
        keys,
        psk: config.gateway_psk,
        coap: config.gateway_coap,
        mqtt: config.gateway_mqtt,
        mqtt_psk: config.gateway_mqtt_psk,
        tls,
    }
}

/// The port of a URL that names none.
const HTTPS: u16 = 443;

/// How long devices may go on with a wake after the signal to stop.
const GRACE: Duration = Duration::from_secs(4);

/// Requests and publications under way at once; the listeners at the gateway bear 128 half-open
/// connections each.
const EXCHANGES: usize = 100;

/// How long a gateway may take to adopt a new device before it is worth a line.
const ADOPTION_TIME: Span = Span::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbered_from_one() {
        for (number, eui) in [
            (1, "02005efffe100001"),
            (256, "02005efffe100100"),
            (65_535, "02005efffe10ffff"),
            (65_536, "02005efffe110000"),
            (100_000, "02005efffe1186a0"),
        ] {
            assert_eq!(eui_of(number).to_string(), eui);
        }
        // The second half of the MAC address is split by FF FE.
        assert_eq!(eui_of(1), Eui64::from("02:00:5e:10:00:01".parse::<MacAddr>().unwrap()));
    }
}
