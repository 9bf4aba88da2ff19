//! `claviger sdn pending`, `approve`, `import` and their like: devices as the platform has enrolled them.

use anyhow::{Context as _, Result};
use claviger_wire::enrolment::{
    Audit, AuditEntry, Enrolment, Enrolments, Imported, Order, Orders, Outcome, Reason,
};

use crate::cli::sdn::{EventsArgs, ImportArgs, MeasureArgs, ShowArgs};
use crate::console;
use crate::platform::Platform;
use crate::sdn::show;

/// `claviger sdn pending`: devices that were seen and wait for somebody's word.
pub(crate) async fn pending(args: &ShowArgs) -> Result<()> {
    let all = enrolments(&Platform::open(&args.state)?).await?;
    let pending = all.into_iter().filter(|device| device.standing == "pending").collect();
    show(args, pending, line_of_enrolment, "no device waits for approval");
    Ok(())
}

/// `claviger sdn devices`
pub(crate) async fn devices(args: &ShowArgs) -> Result<()> {
    let all = enrolments(&Platform::open(&args.state)?).await?;
    show(
        args,
        all,
        line_of_enrolment,
        "no device is enrolled: `claviger sdn import` brings labels",
    );
    Ok(())
}

async fn enrolments(platform: &Platform) -> Result<Vec<Enrolment>> {
    let mut all: Vec<Enrolment> = Vec::new();
    loop {
        let after = all.last().map(|device| format!("?after={}", device.mac)).unwrap_or_default();
        let page: Enrolments = platform.ask(&format!("/v1/enrolments{after}")).await?;
        if page.enrolments.is_empty() {
            return Ok(all);
        }
        all.extend(page.enrolments);
    }
}

/// `claviger sdn approve`, `suspend`, `resume`, `quarantine`, `release`, `retire`
pub(crate) async fn measure(measure: &str, args: &MeasureArgs) -> Result<()> {
    let platform = Platform::open(&args.state)?;
    let reason = serde_json::to_vec(&Reason { why: args.why.clone() })?;
    for mac in &args.macs {
        let path = format!("/v1/enrolments/{mac}/{measure}");
        let outcome: Outcome = platform.post(&path, reason.clone()).await?;
        console::out(format_args!("{} is {}", outcome.mac, outcome.standing));
    }
    Ok(())
}

/// `claviger sdn import`
pub(crate) async fn import(args: &ImportArgs) -> Result<()> {
    let read = || format!("{} cannot be read", args.labels.display());
    let labels = std::fs::read(&args.labels).with_context(read)?;
    let form = if args.qr { "qr" } else { "csv" };
    let policy = args.policy.as_ref().map(|name| format!("&policy={name}")).unwrap_or_default();
    let path = format!("/v1/enrolments?form={form}{policy}");
    let imported: Imported = Platform::open(&args.state)?.post_text(&path, labels).await?;
    console::out(format_args!(
        "{} devices are enrolled; their keys serve once: destroy {}",
        imported.devices,
        args.labels.display()
    ));
    Ok(())
}

/// `claviger sdn orders`
pub(crate) async fn orders(args: &ShowArgs) -> Result<()> {
    let platform = Platform::open(&args.state)?;
    let mut all: Vec<Order> = Vec::new();
    loop {
        let after = all.last().map_or(0, |order| order.number);
        let page: Orders = platform.ask(&format!("/v1/orders?after={after}")).await?;
        if page.orders.is_empty() {
            break;
        }
        all.extend(page.orders);
    }
    show(args, all, line_of_order, "no keys were ordered yet");
    Ok(())
}

/// `claviger sdn audit`
pub(crate) async fn audit(args: &EventsArgs) -> Result<()> {
    let platform = Platform::open(&args.show.state)?;
    let (mut after, wait) = (0, if args.follow { 5 } else { 0 });
    loop {
        let page: Audit = platform.ask(&format!("/v1/audit?after={after}&wait_s={wait}")).await?;
        if page.entries.is_empty() && !args.follow {
            return Ok(());
        }
        after = page.entries.last().map_or(after, |entry| entry.seq);
        for entry in page.entries {
            if args.show.json {
                console::out(serde_json::to_string(&entry)?);
            } else {
                console::out(line_of_entry(&entry));
            }
        }
    }
}

fn line_of_enrolment(device: &Enrolment) -> String {
    let place = device.place.as_deref().unwrap_or("not seen");
    let order = device.order.map(|number| format!("  order {number}")).unwrap_or_default();
    let Enrolment { mac, standing, policy, .. } = device;
    format!("{mac}  {standing:12}  {policy:12}  {place:20}{order}")
}

fn line_of_order(order: &Order) -> String {
    let Order { number, placed_s, keys } = order;
    format!("order {number:5}  {placed_s:14.3}  {keys} first keys for {keys} new devices")
}

fn line_of_entry(entry: &AuditEntry) -> String {
    let AuditEntry { seq, at_s, who, mac, what } = entry;
    format!("{seq:6}  {at_s:14.3}  {mac}  {who:10}  {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_line() {
        let json = r#"{"mac":"02:00:5e:10:00:01","standing":"approved","policy":"sensor",
            "place":"0000000000000001:3","since_s":1.0,"order":2}"#;
        let device: Enrolment = serde_json::from_str(json).unwrap();
        assert_eq!(
            line_of_enrolment(&device),
            "02:00:5e:10:00:01  approved      sensor        0000000000000001:3    order 2"
        );
    }
}
