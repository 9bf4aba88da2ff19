//! What a sensor measured, as the plaintext of a telemetry frame (ours).

use alloc::vec::Vec;

use claviger_units::Timestamp;
use coset::cbor::{self, Value};

/// One reading of a sensor. All values are whole numbers of the unit in their name, so that what
/// is decoded is exactly what was measured.
///
/// ```
/// use claviger_frames::Reading;
/// use claviger_units::Timestamp;
///
/// let reading = Reading {
///     temperature_centi_c: -1250,
///     humidity_permille: 431,
///     light_lux: 12_000,
///     battery_mv: 2950,
///     taken: Timestamp::from_micros(1_700_000_000_000_000),
/// };
/// assert_eq!(Reading::decode(&reading.encode())?, reading);
/// assert_eq!((reading.temperature_c(), reading.humidity_pct()), (-12.5, 43.1));
/// # Ok::<(), claviger_frames::ReadingError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The temperature in hundredths of a degree Celsius.
    pub temperature_centi_c: i16,
    /// The relative humidity in thousandths.
    pub humidity_permille: u16,
    /// The light in lux.
    pub light_lux: u32,
    /// The voltage of the battery in millivolts.
    pub battery_mv: u16,
    /// When it was measured, by the clock of the device.
    pub taken: Timestamp,
}

/// Why bytes are not a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadingError {
    /// Not one CBOR map: the device speaks another format.
    #[error("not a CBOR map")]
    Malformed,
    /// A member is missing, twice there, or out of its range.
    #[error("the member {0} is missing, repeated or out of range")]
    Member(u8),
}

impl Reading {
    /// Returns the temperature in degrees Celsius.
    #[must_use]
    pub fn temperature_c(&self) -> f64 {
        f64::from(self.temperature_centi_c) / 100.0
    }

    /// Returns the relative humidity in percent.
    #[must_use]
    pub fn humidity_pct(&self) -> f64 {
        f64::from(self.humidity_permille) / 10.0
    }

    /// Writes `{1: temperature, 2: humidity, 3: light, 4: battery, 5: taken in µs}` in CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let member = |key: u8, value: Value| (Value::from(key), value);
        encode_value(&Value::Map(alloc::vec![
            member(TEMPERATURE, self.temperature_centi_c.into()),
            member(HUMIDITY, self.humidity_permille.into()),
            member(LIGHT, self.light_lux.into()),
            member(BATTERY, self.battery_mv.into()),
            member(TAKEN, self.taken.as_micros().into()),
        ]))
    }

    /// Reads what [`encode`](Self::encode) wrote; members that are not known yet are passed over.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReadingError> {
        let mut rest = bytes;
        let map: Value = cbor::from_reader(&mut rest).or(Err(ReadingError::Malformed))?;
        let Value::Map(members) = map else { return Err(ReadingError::Malformed) };
        if !rest.is_empty() {
            return Err(ReadingError::Malformed);
        }
        Ok(Self {
            temperature_centi_c: member(&members, TEMPERATURE)?,
            humidity_permille: member(&members, HUMIDITY)?,
            light_lux: member(&members, LIGHT)?,
            battery_mv: member(&members, BATTERY)?,
            taken: Timestamp::from_micros(member(&members, TAKEN)?),
        })
    }
}

fn encode_value(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    cbor::into_writer(value, &mut bytes).expect("writing to memory does not fail");
    bytes
}

fn member<T: TryFrom<cbor::value::Integer>>(
    members: &[(Value, Value)],
    key: u8,
) -> Result<T, ReadingError> {
    let mut found = members.iter().filter(|(name, _)| *name == Value::from(key));
    let (Some((_, Value::Integer(value))), None) = (found.next(), found.next()) else {
        return Err(ReadingError::Member(key));
    };
    T::try_from(*value).or(Err(ReadingError::Member(key)))
}

const TEMPERATURE: u8 = 1;
const HUMIDITY: u8 = 2;
const LIGHT: u8 = 3;
const BATTERY: u8 = 4;
const TAKEN: u8 = 5;

impl core::fmt::Display for Reading {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:.2} °C, {:.1} % humidity, {} lx, {} mV",
            self.temperature_c(),
            self.humidity_pct(),
            self.light_lux,
            self.battery_mv,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faulty_members_are_refused() {
        let good = [0xA5, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0];
        assert!(Reading::decode(&good).is_ok());
        for (bytes, error) in [
            (&[][..], ReadingError::Malformed),
            (&[0x80], ReadingError::Malformed),
            (&[0xA0, 0], ReadingError::Malformed),
            (&[0xA4, 1, 0, 2, 0, 3, 0, 4, 0], ReadingError::Member(5)),
            (&[0xA6, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 1, 1], ReadingError::Member(1)),
            (&[0xA5, 1, 0, 2, 0x20, 3, 0, 4, 0, 5, 0], ReadingError::Member(2)),
            (&[0xA5, 1, 0, 2, 0, 3, 0x60, 4, 0, 5, 0], ReadingError::Member(3)),
        ] {
            assert_eq!(Reading::decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert_eq!(Reading::decode(&[0x81; 100_000]), Err(ReadingError::Malformed));
    }

    proptest! {
        #[test]
        fn a_reading_survives_its_bytes(t: i16, h: u16, light: u32, battery: u16, taken: u64) {
            let reading = Reading {
                temperature_centi_c: t,
                humidity_permille: h,
                light_lux: light,
                battery_mv: battery,
                taken: Timestamp::from_micros(taken),
            };
            prop_assert_eq!(Reading::decode(&reading.encode()), Ok(reading));
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _: Result<_, _> = Reading::decode(&bytes);
        }
    }
}
