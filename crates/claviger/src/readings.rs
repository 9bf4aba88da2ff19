//! `claviger readings` and `claviger devices`: what the platform shows its operator.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use claviger_wire::platform::{Device, Devices, Reading, Readings};

use crate::cli::{DevicesArgs, ReadingsArgs};
use crate::console;
use crate::platform::Platform;

/// `claviger readings`
pub(crate) async fn readings(args: &ReadingsArgs) -> Result<()> {
    let platform = Platform::open(&args.state)?;
    let of_device = args.device.map(|eui| format!("&eui={eui}")).unwrap_or_default();
    let (mut after, mut newest) = (0, VecDeque::new());
    loop {
        let page: Readings =
            platform.ask(&format!("/v1/readings?after={after}&limit={PAGE}{of_device}")).await?;
        let full = page.readings.len() == PAGE;
        after = page.readings.last().map_or(after, |reading| reading.seq);
        newest.extend(page.readings);
        newest.drain(..newest.len().saturating_sub(args.last));
        if !full {
            break;
        }
    }
    if newest.is_empty() {
        console::err(
            "no reading yet: devices send their first one after their first key from the link",
        );
    }
    let now = now();
    for reading in newest {
        if args.json {
            console::out(serde_json::to_string(&reading)?);
        } else {
            console::out(line_of_reading(&reading, now));
        }
    }
    Ok(())
}

/// The most readings of one answer.
const PAGE: usize = 1000;

fn line_of_reading(reading: &Reading, now: f64) -> String {
    let Reading { seq, eui, epoch, counter, .. } = reading;
    let measured = match (
        reading.temperature_c,
        reading.humidity_pct,
        reading.light_lux,
        reading.battery_mv,
    ) {
        (Some(temperature), Some(humidity), Some(light), Some(battery)) => {
            format!("{temperature:6.2} °C  {humidity:5.1} %  {light:6} lx  {battery:4} mV")
        }
        _ => "in a format that this version does not know".to_owned(),
    };
    let age = (now - reading.received_s).max(0.0);
    let origin = match reading.key_origin {
        Some(origin) => origin.to_string(),
        None => "origin unknown".to_owned(),
    };
    format!("{seq:7}  {eui}  epoch {epoch} ({origin}), {counter}  {measured}  {age:.0} s ago")
}

/// `claviger devices`
pub(crate) async fn devices(args: &DevicesArgs) -> Result<()> {
    let platform = Platform::open(&args.state)?;
    let answer: Devices = platform.ask("/v1/devices").await?;
    if answer.devices.is_empty() {
        console::err("no device is provisioned yet");
    }
    for device in answer.devices {
        if args.json {
            console::out(serde_json::to_string(&device)?);
        } else {
            console::out(line_of_device(&device));
        }
    }
    Ok(())
}

fn line_of_device(device: &Device) -> String {
    let key = match &device.key_origin {
        Some(origin) => format!("key of epoch {} ({origin})", device.epoch),
        None => "no key from the link yet".to_owned(),
    };
    let next = device.prepared.map(|epoch| format!(", epoch {epoch} prepared")).unwrap_or_default();
    format!("{}  {:8}  {key}{next}", device.eui, device.adoption)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_line() {
        let body = r#"{"readings":[{"seq":12,"eui":"02005efffe100001","epoch":3,"counter":0,
            "key_origin":"simulated","received_s":100.0,"taken_s":99.0,"temperature_c":21.37,"humidity_pct":43.1,
            "light_lux":310,"battery_mv":2950}]}"#;
        let read: Readings = serde_json::from_str(body).unwrap();
        assert_eq!(
            line_of_reading(&read.readings[0], 112.4),
            "     12  02005efffe100001  epoch 3 (simulated), 0   21.37 °C   43.1 %     310 lx  2950 mV  12 s ago"
        );
    }

    #[test]
    fn a_device_says_which_key_it_has_and_where_that_comes_from() {
        let body = r#"{"devices":[{"eui":"02005efffe100001","adoption":"adopted","epoch":3,
            "prepared":4,"key_origin":"simulated"},{"eui":"02005efffe100002",
            "adoption":"waiting","epoch":0,"prepared":null,"key_origin":null}]}"#;
        let read: Devices = serde_json::from_str(body).unwrap();
        let lines: Vec<_> = read.devices.iter().map(line_of_device).collect();
        assert_eq!(
            lines,
            [
                "02005efffe100001  adopted   key of epoch 3 (simulated), epoch 4 prepared",
                "02005efffe100002  waiting   no key from the link yet",
            ]
        );
    }
}
