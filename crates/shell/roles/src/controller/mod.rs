//! The controller of the network: switches by OpenFlow, operators and the provisioning application by
//! HTTPS.

mod actor;
mod desk;
mod happenings;
mod keep;
mod switches;

use std::sync::Arc;
use std::time::Duration;

use claviger_control::{
    Admission, Controller, ControllerConfig, LldpKey, Mastery, Movement, Times,
};
use claviger_net::accept::{Guard, Limits};
use claviger_net::shutdown::TaskGroup;
use claviger_net::tls::{self, PeerInfo, TlsServer};
use claviger_net::{http, listen};
use claviger_units::MacAddr;

use self::actor::Actor;
use self::desk::Desk;
use self::keep::Keep;
use crate::config::ControllerRoleConfig;
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};

/// Runs a controller until the signal to stop.
pub async fn run(
    config: ControllerRoleConfig,
    folder: Folder,
    context: Context,
) -> Result<(), RoleError> {
    let (identity, authority) = folder.identity()?;
    let keep = Keep::open(&folder, &config.policies)?;
    let controller = controller(&config, &folder, &keep, &context)?;
    let (actor, handle) = Actor::new(controller, keep, context.clone());
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    if let Some(address) = config.openflow {
        let (listener, guard) = (listen::tcp(address).await?, Guard::new(SWITCHES));
        let (handle, shutdown) = (handle.clone(), context.shutdown.clone());
        tasks.spawn("openflow", async move {
            let open = |stream, _| async move { Ok(stream) };
            let serve = move |stream| switches::serve(stream, handle.clone());
            guard.serve(listener, &shutdown, open, serve).await;
        });
    }
    let server = tls::server_mutual(&identity, &authority);
    if let Some(address) = config.openflow_tls {
        let listener = listen::tcp(address).await?;
        let guarded = TlsServer::new(Arc::clone(&server), SWITCHES);
        let (handle, shutdown) = (handle.clone(), context.shutdown.clone());
        let (names, reports) = (Arc::new(config.switch_names.clone()), context.reports.clone());
        tasks.spawn("openflow by tls", async move {
            let serve = move |stream, peer: PeerInfo| {
                let is_switch = peer.name.as_ref().is_some_and(|name| names.contains(name));
                if !is_switch {
                    let name = peer.name.map_or("nobody".to_owned(), |name| name.to_string());
                    let why = format_args!("{name} is no switch: see switch_names");
                    reports.refused("controller", why);
                }
                let handle = is_switch.then(|| handle.clone());
                async move {
                    if let Some(handle) = handle {
                        switches::serve(stream, handle).await;
                    }
                }
            };
            guarded.serve(listener, &shutdown, serve).await;
        });
    }
    let https = listen::tcp(config.https).await?;
    let guarded = TlsServer::new(server, Limits::STANDARD);
    let desk = Desk::new(handle, &config, context.clone());
    let (router, shutdown) = (desk.router(), context.shutdown.clone());
    tasks.spawn("controller https", async move {
        http::serve(https, &guarded, router, &shutdown).await;
    });
    context.reports.tell(Report::Ready("controller"));
    let ended = tokio::select! {
        ended = actor.run() => ended,
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    context.shutdown.trigger();
    tasks.finish(Duration::from_secs(2)).await;
    ended
}

/// Switches stay, and their handshake is TCP's, or TLS's.
const SWITCHES: Limits = Limits { connections: 4096, ..Limits::STANDARD };

/// The controller's own card in the frames that it makes: locally administered.
const MAC: MacAddr = MacAddr::from_bytes([0x02, 0xC1, 0xA7, 0x00, 0x00, 0x01]);

fn controller(
    config: &ControllerRoleConfig,
    folder: &Folder,
    keep: &Keep,
    context: &Context,
) -> Result<Controller, RoleError> {
    let now = context.clock.now();
    let core = ControllerConfig {
        mac: MAC,
        lldp_key: lldp_key(folder)?,
        policies: config.policies.clone(),
        sweep: config.sweep.clone(),
        dhcp_server: config.dhcp_server,
        unknown: config.unknown,
        optics: config.crossing.as_ref().map(|(optics, _)| optics.clone()),
        times: Times::STANDARD,
    };
    let generation = keep::next_generation(folder, now)?;
    let mut controller = Controller::new(now, core, Mastery::Primary { generation });
    let servers = config.servers.iter().map(|server| Admission {
        mac: server.mac,
        policy: server.policy,
        place: keep.place_of(server.mac),
        addresses: server.addresses.clone(),
        movement: Movement::AfterUnplugging,
    });
    let servers: Vec<_> = servers.collect();
    let names: Vec<_> = servers.iter().map(|server| server.mac).collect();
    let kept = keep.admissions().into_iter().filter(|kept| !names.contains(&kept.mac));
    let (mut others, mut learned) = (Vec::new(), Vec::new());
    for kept in kept {
        learned.push((kept.mac, kept.addresses.clone()));
        others.push(Admission { addresses: Vec::new(), ..kept });
    }
    let all = servers.into_iter().chain(others);
    controller.admit(now, all).expect("policies were looked up by name");
    // What hosts were heard to have they may lose again; what servers were given goes before it.
    for (mac, addresses) in learned {
        controller.recall(mac, &addresses);
    }
    Ok(controller)
}

fn lldp_key(folder: &Folder) -> Result<LldpKey, RoleError> {
    let path = folder.file("lldp.key");
    let wrong = |why: String| RoleError::Secret { path: path.clone(), why };
    let bytes = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    let key = bytes.try_into().or(Err(wrong("it does not have 32 bytes".to_owned())))?;
    Ok(LldpKey::from_bytes(key))
}
