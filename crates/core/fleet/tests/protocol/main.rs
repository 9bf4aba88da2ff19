//! `PROTOCOL.md` P3 against the real cores: rule by rule, and in histories full of faults.

#[cfg(test)]
mod histories;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod pads;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod ways;
#[cfg(test)]
mod world;
