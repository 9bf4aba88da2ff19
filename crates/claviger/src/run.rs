//! `claviger run ROLE --config FILE`: one role in this process.

use std::path::Path;

use anyhow::{Context as _, Result};
use claviger_net::clock::Clock;
use claviger_net::shutdown::Shutdown;
use claviger_photonics::Eve;
use claviger_roles::config::{
    self, RawController, RawDevices, RawFibre, RawGateway, RawKme, RawLan, RawPlatform, RawQkd,
};
use claviger_roles::{
    Context, Folder, Report, Reporter, RoleError, controller, devices, fibre, gateway, kme, lan,
    platform, qkd,
};
use tokio::sync::watch;

use crate::cli::{Role, RunArgs};
use crate::lock::{FolderLock, LockError};
use crate::signals::Signals;
use crate::{console, log};

/// Runs the role until a signal comes.
pub(crate) async fn run(args: &RunArgs, verbosity: u8) -> Result<()> {
    log::to_stderr(verbosity);
    let _lock = locked(&args.config)?;
    let mut signals = Signals::listen()?;
    let (reports, mut told) = Reporter::channel();
    let shutdown = Shutdown::new();
    let context = Context { clock: Clock::start(), shutdown: shutdown.clone(), reports };
    let mut role = std::pin::pin!(play(args, context));
    loop {
        tokio::select! {
            ended = &mut role => return ended.with_context(|| format!("the role `{}` has ended", name(args.role))),
            Some(report) = told.recv() => tell(&report),
            () = signals.next(), if !shutdown.is_triggered() => shutdown.trigger(),
        }
    }
}

/// Keeps `claviger up` and `claviger init` from rewriting what a running role was started with.
fn locked(config: &Path) -> Result<Option<FolderLock>, LockError> {
    let folder = match config.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // What is not there is refused, with its name, where it is loaded.
    config.is_file().then(|| FolderLock::take(folder)).transpose()
}

async fn play(args: &RunArgs, context: Context) -> Result<(), RoleError> {
    let (path, folder) = (&args.config, Folder::of_config(&args.config));
    match args.role {
        Role::Fibre => {
            let config = config::load::<RawFibre>(path)?;
            // Nobody changes her mind: the sender only has to live.
            let (_eve, watched) = watch::channel(Eve::intercepting(config.eve));
            fibre::run(config, folder, watched, context).await
        }
        Role::Qkd => qkd::run(config::load::<RawQkd>(path)?, folder, context).await,
        Role::Kme => kme::run(config::load::<RawKme>(path)?, folder, context).await,
        Role::Gateway => gateway::run(config::load::<RawGateway>(path)?, folder, context).await,
        Role::Platform => platform::run(config::load::<RawPlatform>(path)?, folder, context).await,
        Role::Controller => {
            controller::run(config::load::<RawController>(path)?, folder, context).await
        }
        Role::Lan => lan::run(config::load::<RawLan>(path)?, folder, context).await,
        Role::Devices => devices::run(config::load::<RawDevices>(path)?, folder, context).await,
    }
}

fn name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

/// The roles log the rest themselves.
fn tell(report: &Report) {
    match report {
        Report::Ready(role) => console::out(format_args!("{role}: ready")),
        Report::Attack(Some(words)) => {
            console::err(format_args!("the light is under attack: {words}"));
        }
        Report::Attack(None) => console::err("the attack on the light is over"),
        Report::Delivered { site, keys, to } => {
            console::err(format_args!("site {site}: {keys} keys delivered, {to} (simulated)"));
        }
        Report::Keyed { eui, epoch } => {
            console::err(format_args!("{eui}: has the key of epoch {epoch} (simulated)"));
        }
        Report::Decrypted { eui, epoch, counter, reading } => {
            console::err(format_args!("{eui}: epoch {epoch}, reading {counter}: {reading}"));
        }
        _ => {}
    }
}
