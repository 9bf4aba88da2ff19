//! Labels that a person carries to the platform: a file for `claviger sdn import`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use claviger_units::{Eui64, Key256, MacAddr};
use zeroize::Zeroizing;

use super::shelf::Shelf;
use crate::role::RoleError;

/// The name of the file, beside the configuration.
pub(super) const NAME: &str = "labels.csv";

/// Writes the labels that nobody has taken yet into a file that only its owner can read, and destroys
/// them here once they are on the disk. A file that is still there is not overwritten.
pub(super) async fn hand_out(
    shelf: &Shelf,
    devices: impl Iterator<Item = Eui64> + Clone,
    path: &Path,
) -> Result<(), RoleError> {
    let mut text = Zeroizing::new(String::new());
    for eui in devices.clone() {
        // Emulated devices are named after a card each.
        if let Some((label, mac)) = shelf.label(eui).await?.zip(eui.mac()) {
            text.push_str(&line(mac, &label));
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    text.insert_str(0, "mac,bootstrap_key,policy\n");
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written =
        opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| RoleError::Labels { path: path.into(), source })?;
    for eui in devices {
        shelf.destroy_label(eui).await?;
    }
    Ok(())
}

fn line(mac: MacAddr, label: &Key256) -> Zeroizing<String> {
    let digits = Zeroizing::new(label.expose().iter().fold(String::new(), |mut digits, byte| {
        digits.push_str(&format!("{byte:02x}"));
        digits
    }));
    Zeroizing::new(format!("{mac},{},sensor\n", *digits))
}
