//! All roles in one process. They share nothing: each gets the path of its own folder, and what
//! they say to each other crosses the sockets it would cross in the field.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use claviger_net::clock::Clock;
use claviger_net::shutdown::{Ending, Shutdown, TaskGroup};
use claviger_photonics::Eve;
use claviger_roles::config::{
    self, ConfigError, RawController, RawDevices, RawFibre, RawGateway, RawKme, RawLan,
    RawPlatform, RawQkd,
};
use claviger_roles::init::Layout;
use claviger_roles::{
    Context, Folder, Reporter, RoleError, controller, devices, fibre, gateway, kme, lan, platform,
    qkd,
};
use claviger_units::Fraction;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The roles while they run.
#[derive(Debug)]
pub(crate) struct Network {
    /// Every role that ended, and how.
    pub(crate) ended: mpsc::UnboundedReceiver<Ended>,
    stop: Shutdown,
    stop_devices: Shutdown,
    eve: watch::Sender<Eve>,
    /// Ends when every role has ended; see [`ending`].
    pub(crate) tasks: JoinHandle<Ending>,
}

/// A role that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its name for people.
    pub(crate) role: &'static str,
    /// How.
    pub(crate) result: Result<(), RoleError>,
}

/// The name of the devices among the roles.
pub(crate) const DEVICES: &str = "devices";
/// How long roles may take to stop.
const GRACE: Duration = Duration::from_secs(5);

impl Network {
    /// Reads the configurations and starts every role.
    pub(crate) fn start(
        layout: &Layout,
        clock: Clock,
        reports: &Reporter,
        eve: Fraction,
    ) -> Result<Self, ConfigError> {
        let (stop, stop_devices) = (Shutdown::new(), Shutdown::new());
        let (eve, watched) = watch::channel(Eve::intercepting(eve));
        let (told, ended) = mpsc::unbounded_channel();
        let mut roles = Roles { layout, told, tasks: TaskGroup::new(stop.clone()) };
        let context = |shutdown: &Shutdown| {
            let (shutdown, reports) = (shutdown.clone(), reports.clone());
            Context { clock, shutdown, reports }
        };
        let all = || context(&stop);

        let config = config::load::<RawFibre>(&layout.config("fibre"))?;
        roles.spawn("fibre", fibre::run(config, roles.folder("fibre"), watched, all()));
        for (name, role) in [("qkd A", "site-a/qkd"), ("qkd B", "site-b/qkd")] {
            let config = config::load::<RawQkd>(&layout.config(role))?;
            roles.spawn(name, qkd::run(config, roles.folder(role), all()));
        }
        for (name, role) in [("kme A", "site-a/kme"), ("kme B", "site-b/kme")] {
            let config = config::load::<RawKme>(&layout.config(role))?;
            roles.spawn(name, kme::run(config, roles.folder(role), all()));
        }
        let role = "site-b/platform";
        let config = config::load::<RawPlatform>(&layout.config(role))?;
        roles.spawn("platform", platform::run(config, roles.folder(role), all()));
        let role = "site-a/gateway";
        let config = config::load::<RawGateway>(&layout.config(role))?;
        roles.spawn("gateway", gateway::run(config, roles.folder(role), all()));
        let role = "site-b/controller";
        let config = config::load::<RawController>(&layout.config(role))?;
        roles.spawn("controller", controller::run(config, roles.folder(role), all()));
        let role = "site-a/switch";
        let config = config::load::<RawLan>(&layout.config(role))?;
        roles.spawn("lan", lan::run(config, roles.folder(role), all()));
        let config = config::load::<RawDevices>(&layout.config("devices"))?;
        let folder = roles.folder("devices");
        roles.spawn(DEVICES, devices::run(config, folder, context(&stop_devices)));

        let tasks = tokio::spawn(roles.tasks.finish(GRACE));
        Ok(Self { ended, stop, stop_devices, eve, tasks })
    }

    /// Changes the eavesdropper's share of the pulses.
    pub(crate) fn set_eve(&self, share: Fraction) {
        self.eve.send_replace(Eve::intercepting(share));
    }

    /// Lets the devices finish what is in flight, and wake no more.
    pub(crate) fn stop_devices(&self) {
        self.stop_devices.trigger();
    }

    /// Tells whether the roles have been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_triggered()
    }

    /// Stops every role, and cuts off what does not stop in time.
    pub(crate) async fn finish(&mut self) -> Ending {
        self.stop_devices.trigger();
        self.stop.trigger();
        ending((&mut self.tasks).await)
    }
}

/// Returns how the roles ended, also where their keeper itself broke.
pub(crate) fn ending(joined: Result<Ending, tokio::task::JoinError>) -> Ending {
    let lost = || Ending { panicked: vec!["the keeper of the roles".to_owned()], cut_off: vec![] };
    joined.unwrap_or_else(|_| lost())
}

struct Roles<'a> {
    layout: &'a Layout,
    told: mpsc::UnboundedSender<Ended>,
    tasks: TaskGroup,
}

impl Roles<'_> {
    fn folder(&self, role: &str) -> Folder {
        let path: PathBuf = self.layout.folder(role);
        Folder::new(path)
    }

    fn spawn(
        &mut self,
        role: &'static str,
        running: impl Future<Output = Result<(), RoleError>> + Send + 'static,
    ) {
        let told = self.told.clone();
        self.tasks.spawn(role, async move {
            let result = running.await;
            // Nobody listens any more only at the very end.
            drop(told.send(Ended { role, result }));
        });
    }
}
