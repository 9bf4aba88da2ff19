//! `--link lab|city|FILE` and `--loss-db`, as a checked preset.

use std::path::Path;

use anyhow::{Context as _, Result};
use claviger_photonics::LinkPreset;
use claviger_roles::config::RawLink;
use claviger_roles::init::INSERTION_DB;
use claviger_units::Decibels;

/// The link that somebody asked for.
#[derive(Clone, Debug)]
pub(crate) struct ChosenLink {
    /// What it is made of.
    pub(crate) preset: LinkPreset,
    /// A built-in name, or the whole path of the file: what a configuration may say.
    written: String,
    loss: Option<Decibels>,
    /// The fibres behind an optical switch, where there is one.
    pub(crate) fibres: Vec<(String, Decibels)>,
}

impl ChosenLink {
    /// Finds the preset by its built-in name, else in the file of that name below `folder`.
    pub(crate) fn find(name: &str, loss: Option<Decibels>, folder: &Path) -> Result<Self> {
        let (preset, written) = if LinkPreset::NAMES.contains(&name) {
            (LinkPreset::named(name), name.to_owned())
        } else {
            let path = std::path::absolute(folder.join(name))
                .with_context(|| format!("--link {name} is no path"))?;
            let text = std::fs::read_to_string(&path).with_context(|| {
                let names = LinkPreset::NAMES.join(", ");
                format!("--link {name} is neither built in (those are {names}) nor a preset file that can be read")
            })?;
            (LinkPreset::from_toml(&text), path.to_string_lossy().into_owned())
        };
        let preset = preset.with_context(|| format!("--link {name} is not a usable preset"))?;
        let preset = match loss {
            Some(loss) => preset.with_loss(loss),
            None => preset,
        };
        Ok(Self { preset, written, loss, fibres: Vec::new() })
    }

    /// Puts an optical switch before the fibre of this link and that of another one. The losses of both are
    /// totals, the switch included; light is emitted as for the greater one.
    pub(crate) fn beside(self, spare: &Self) -> Result<Self> {
        let (own, other) = (self.preset.name(), spare.preset.name());
        let other = if own == other { format!("{other}-2") } else { other.to_owned() };
        let losses = [self.preset.loss(), spare.preset.loss()];
        let behind = |total: Decibels| Decibels::from_db((total.as_db() - INSERTION_DB).max(0.0));
        let [first, second] = losses.map(behind);
        let fibres = vec![(own.to_owned(), first?), (other, second?)];
        let greater = losses.map(Decibels::as_db).into_iter().fold(0.0, f64::max);
        let loss = Decibels::from_db(greater.max(INSERTION_DB))?;
        let preset = self.preset.with_loss(loss);
        Ok(Self { preset, loss: Some(loss), fibres, ..self })
    }

    /// Returns what the configurations of the roles say about it.
    pub(crate) fn raw(&self, seed: Option<u64>) -> RawLink {
        let loss_db = self.loss.map(Decibels::as_db);
        RawLink { preset: self.written.clone(), loss_db, seed }
    }

    /// Names it for people, such as `lab, 4 dB`.
    pub(crate) fn in_words(&self) -> String {
        let (name, loss) = (self.preset.name(), self.preset.loss());
        if self.fibres.is_empty() {
            return format!("{name}, {loss}");
        }
        let fibres: Vec<_> = self.fibres.iter().map(|(fibre, _)| fibre.as_str()).collect();
        format!("{} behind an optical switch, at most {loss}", fibres.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_in_name_comes_before_a_file_and_loss_replaces_its_own() {
        let loss = Decibels::from_db(6.5).unwrap();
        let link = ChosenLink::find("city", Some(loss), Path::new("/nowhere")).unwrap();
        assert_eq!(link.in_words(), "city, 6.5 dB");
        let raw = link.raw(Some(7));
        assert_eq!((raw.preset.as_str(), raw.loss_db, raw.seed), ("city", Some(6.5), Some(7)));
    }

    #[test]
    fn two_fibres_keep_their_losses_and_light_is_made_for_the_greater() {
        let find = |name| ChosenLink::find(name, None, Path::new("/nowhere")).unwrap();
        let both = find("lab").beside(&find("city")).unwrap();
        assert_eq!(both.in_words(), "lab and city behind an optical switch, at most 7 dB");
        let losses: Vec<_> =
            both.fibres.iter().map(|(name, loss)| (name.as_str(), loss.as_db())).collect();
        assert_eq!(losses, [("lab", 3.0), ("city", 6.0)]);
        assert_eq!(both.raw(None).loss_db, Some(7.0));
        let twice = find("lab").beside(&find("lab")).unwrap();
        assert_eq!(twice.fibres[1].0, "lab-2");
    }

    #[test]
    fn an_unknown_link_is_refused_with_what_there_is() {
        let error = ChosenLink::find("lob", None, Path::new("/nowhere")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("--link lob") && text.contains("lab, city, clavis2"), "{text}");
    }

    #[test]
    fn a_file_is_written_with_its_whole_path() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../../../presets/lab.toml").replace("\"lab\"", "\"mine\"");
        std::fs::write(folder.path().join("mine.toml"), text).unwrap();
        let link = ChosenLink::find("mine.toml", None, folder.path()).unwrap();
        assert_eq!(link.in_words(), "mine, 4 dB");
        assert!(Path::new(&link.raw(None).preset).is_absolute());
    }
}
