//! `claviger sdn mud`: what a maker says that its devices need, as a policy of the controller.

use anyhow::{Context as _, Result, ensure};
use claviger_roles::config::{self, POLICIES, RawController};
use claviger_roles::mud;

use crate::cli::sdn::MudArgs;
use crate::console;
use crate::demo::Demo;

/// Reads a description and puts its policy into the controller's folder.
pub(crate) fn import(args: &MudArgs) -> Result<()> {
    let MudArgs { file, policy: name, server, state } = args;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure!(
        !name.is_empty() && name.chars().all(is_name),
        "--policy {name}: a name has letters, digits, - and _"
    );
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let profile = mud::read(&text, &server.iter().cloned().collect())?;
    let folder = Demo::open(&state.state)?.folder("site-b/controller");
    let path = folder.file(POLICIES).join(format!("{name}.toml"));
    let config = config::load::<RawController>(&folder.file("config.toml"))?;
    ensure!(
        config.policies.iter().all(|known| known.name != *name) || path.exists(),
        "there is a policy {name} in the controller's configuration: choose another name"
    );
    ensure!(!path.exists(), "there is a policy {name} already: remove {} first", path.display());
    let head =
        format!("# Imported from {}: {}\n", one_line(&profile.url), one_line(&profile.systeminfo));
    std::fs::create_dir_all(folder.file(POLICIES)).context("making the folder of policies")?;
    let text = head + &toml::to_string(&profile.policy)?;
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    // A server that the controller does not know is noticed now, and not when it starts.
    if let Err(error) = config::load::<RawController>(&folder.file("config.toml")) {
        std::fs::remove_file(&path).context("taking the policy back")?;
        return Err(error.into());
    }
    for reach in &profile.policy.reaches {
        console::out(format_args!("{name}: {reach}"));
    }
    console::out("the controller has it from its next start on; meanwhile admitted devices go on");
    Ok(())
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
