//! `claviger devices pad`: keys that a device takes home by cable.

use anyhow::Result;
use claviger_wire::platform::{Pad, Pads};

use crate::cli::PadArgs;
use crate::console;
use crate::figures::grouped;
use crate::platform::Platform;

/// Orders a pad, or shows those that there are.
pub(crate) async fn run(args: &PadArgs) -> Result<()> {
    let platform = Platform::open(&args.state)?;
    let path = format!("/v1/devices/{}/pads", args.eui);
    let pads = match args.keys {
        Some(keys) => {
            vec![platform.post(&path, format!(r#"{{"keys":{keys}}}"#).into_bytes()).await?]
        }
        None => platform.ask::<Pads>(&path).await?.pads,
    };
    if args.json {
        console::out(serde_json::to_string(&Pads { pads })?);
    } else if pads.is_empty() {
        console::out(format_args!("device {} has no pad; order one with --keys", args.eui));
    } else {
        for pad in &pads {
            console::out(line(pad));
        }
    }
    Ok(())
}

fn line(Pad { pad, keys, held, first_epoch }: &Pad) -> String {
    let state = match first_epoch {
        Some(first) => format!("docked, serves from epoch {first} to {}", first + keys - 1),
        None if held == keys => "complete, waits for its device to be docked".to_owned(),
        None => format!("{} drawn so far", grouped((*held).into())),
    };
    format!("pad {pad}: {} keys, {state}", grouped((*keys).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pad_says_how_far_it_is() {
        let pad = Pad { pad: 2, keys: 17_520, held: 1280, first_epoch: None };
        assert_eq!(line(&pad), "pad 2: 17 520 keys, 1280 drawn so far");
        let complete = Pad { held: 17_520, ..pad.clone() };
        assert!(line(&complete).ends_with("complete, waits for its device to be docked"));
        let docked = Pad { first_epoch: Some(9), ..complete };
        assert!(line(&docked).ends_with("docked, serves from epoch 9 to 17528"));
    }
}
