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

#[cfg(test)]
mod tests {
    use super::super::eui_of;
    use super::*;
    use crate::role::Folder;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn labels_are_handed_out_once_and_never_over_others() {
        let place = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&Folder::new(place.path().to_owned())).unwrap();
        let path = place.path().join(NAME);
        let hand_out = async |first: u32| {
            shelf.make_missing(first..=first + 1).await.unwrap();
            hand_out(&shelf, (first..=first + 1).map(eui_of), &path).await
        };
        hand_out(1).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let labels = claviger_fleet::labels::from_csv(&text).unwrap();
        let macs: Vec<_> = labels.iter().map(|label| label.mac.to_string()).collect();
        assert_eq!(macs, ["02:00:5e:10:00:01", "02:00:5e:10:00:02"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(shelf.label(eui_of(1)).await.unwrap().is_none());
        // The same devices again have none; others do not overwrite what was not taken.
        hand_out(1).await.unwrap();
        let refused = hand_out(3).await.unwrap_err().to_string();
        assert!(refused.contains("sdn import") && !refused.contains(&text[60..70]), "{refused}");
        assert!(shelf.label(eui_of(3)).await.unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        hand_out(3).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        shelf.stop().await;
    }
}
