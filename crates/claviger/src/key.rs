//! `claviger key`: an application's side of IDQ3P and ETSI GS QKD 014.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_roles::Folder;
use claviger_roles::sae::{GrantedKey, KeyClient, KeyError};
use claviger_units::{SaeId, Site};
use claviger_wire::etsi014::{Extension, Key, KeyContainer};
use claviger_wire::idq3p::{ByteOrder, Request, RequestId, Response, Status, Wanted};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::UdpSocket;

use crate::cli::{ClientArgs, ExtractArgs, GetArgs, GetByIdArgs, StatusArgs};
use crate::console;
use crate::demo::{self, Demo, at, letter};

/// `claviger key extract`
pub(crate) async fn extract(args: &ExtractArgs) -> Result<()> {
    let site = Site::from(args.site);
    let address = match args.address {
        Some(address) => address,
        None => Demo::open(&args.state.state)?.idq3p(site)?,
    };
    let wanted = args.id.map_or(Wanted::New, Wanted::Id);
    let number = SysRng.try_next_u32().context("the system gives no randomness")?;
    let id = RequestId::from_number(number, ORDER);
    let request = Request::ask(wanted, args.length, id, args.device);
    let response = ask(address, &request).await?;
    let key = response.key().with_context(|| refusal(response.status).to_owned())?;
    let mut digits = String::with_capacity(2 * key.len());
    for byte in key.expose() {
        write!(digits, "{byte:02x}").expect("writing to memory succeeds");
    }
    console::out(format_args!("id      {:#018x}", response.key_id));
    console::out(format_args!("key     {digits}"));
    if args.address.is_none() {
        console::out("origin  simulated");
    }
    if args.address.is_none() && wanted == Wanted::New {
        console::err(format_args!(
            "its copy at the other site: claviger key extract --state {} --site {} --id {:#018x}",
            args.state.state.display(),
            letter(site.other()),
            response.key_id,
        ));
    }
    Ok(())
}

const ORDER: ByteOrder = ByteOrder::LittleEndian;

/// Asks up to three times with the same datagram from the same port, which counts as one request
/// (`PROTOCOL.md` P2).
async fn ask(address: SocketAddr, request: &Request) -> Result<Response> {
    let nobody = || {
        format!("nobody answers IDQ3P at {address}: start `claviger up`, or give another --address")
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("no UDP socket")?;
    socket.connect(address).await.with_context(nobody)?;
    let mut buffer = [0; 2048];
    for _ in 0..3 {
        socket.send(&request.encode(ORDER)).await.with_context(nobody)?;
        let received = tokio::time::timeout(Duration::from_millis(600), socket.recv(&mut buffer));
        let Ok(received) = received.await else { continue };
        let datagram = &buffer[..received.with_context(nobody)?];
        let response = Response::decode(datagram, ORDER)
            .with_context(|| format!("{address} answers something that is not IDQ3P"))?;
        ensure!(response.request_id == request.request_id, "{address} answers another request");
        return Ok(response);
    }
    bail!(nobody())
}

const fn refusal(status: Status) -> &'static str {
    match status {
        Status::Success => "the answer holds no key: the other end is no IDQ3P unit",
        Status::NoMoreKeys => "no key is there now: ask again in a few seconds",
        Status::UnknownKey => "there is no such key for this device, or it has been taken already",
        Status::WrongLength => {
            "no key has this length, or the other site asked for another --length"
        }
        Status::InvalidRequest => "this device may not ask: choose a --device that is configured",
    }
}

/// `claviger key get`
pub(crate) async fn get(args: &GetArgs) -> Result<()> {
    let (client, slave) = open(&args.client, args.site.into(), args.slave.as_ref())?;
    let keys = client.enc_keys(&slave, args.number, args.size).await.map_err(told)?;
    print(&args.client, keys);
    Ok(())
}

/// `claviger key get-by-id`
pub(crate) async fn get_by_id(args: &GetByIdArgs) -> Result<()> {
    let (client, master) = open(&args.client, args.site.into(), args.master.as_ref())?;
    let keys = client.dec_keys(&master, &args.ids).await.map_err(told)?;
    print(&args.client, keys);
    Ok(())
}

/// `claviger key status`
pub(crate) async fn status(args: &StatusArgs) -> Result<()> {
    let (client, slave) = open(&args.client, args.site.into(), args.slave.as_ref())?;
    let status = client.status(&slave).await.map_err(told)?;
    if args.client.json {
        console::out(String::from_utf8_lossy(&status.to_json()));
        return Ok(());
    }
    let extension = status.status_extension.unwrap_or_default();
    let origin = extension.claviger_origin.unwrap_or_else(|| "origin unknown".to_owned());
    console::out(format_args!(
        "{} has {} of at most {} keys of {} bit for {} to share with {} ({origin})",
        status.source_kme_id,
        status.stored_key_count,
        status.max_key_count,
        status.key_size,
        status.master_sae_id,
        status.slave_sae_id,
    ));
    console::out(format_args!(
        "at most {} keys a request, of {} to {} bit",
        status.max_key_per_request, status.min_key_size, status.max_key_size
    ));
    if let Some(claim) = extension.claviger_claim {
        console::out(format_args!("security claim of the next key: {claim}"));
    }
    if let Some(lacks) = extension.claviger_lacks {
        console::out(format_args!("it lacks: {lacks}"));
    }
    Ok(())
}

/// Opens the way to a KME; what is not given comes from the state folder.
fn open(args: &ClientArgs, site: Site, other: Option<&SaeId>) -> Result<(KeyClient, SaeId)> {
    let demo = || Demo::open(&args.state.state);
    let folder = match &args.identity {
        Some(folder) => Folder::new(folder.clone()),
        None => demo()?.folder(&at(site, "app")),
    };
    let url = match &args.url {
        Some(url) => url.clone(),
        None => demo()?.kme_url(site)?,
    };
    let other = match other {
        Some(other) => other.clone(),
        None => format!("app-{}", letter(site.other())).parse()?,
    };
    Ok((KeyClient::new(&url, demo::client(&folder)?), other))
}

/// Adds the remedy where nobody has answered; every answer brings its own.
fn told(error: KeyError) -> anyhow::Error {
    let is_away = matches!(error, KeyError::Unreachable(_));
    let error = anyhow::Error::new(error);
    if is_away {
        error.context(
            "no KME answers: start `claviger up`, or give its folder with --state or its --url",
        )
    } else {
        error
    }
}

fn print(args: &ClientArgs, keys: Vec<GrantedKey>) {
    if args.json {
        let keys = keys.into_iter().map(|GrantedKey { id, key, origin, claim }| {
            let told = Extension {
                claviger_origin: origin,
                claviger_claim: claim,
                ..Extension::default()
            };
            Key { id, key, extension: (told != Extension::default()).then_some(told) }
        });
        let body = KeyContainer { keys: keys.collect() }.to_json();
        console::out(String::from_utf8_lossy(body.expose()));
        return;
    }
    for granted in keys {
        let origin = granted.origin.as_deref().unwrap_or("origin unknown");
        let claim = granted.claim.map_or_else(String::new, |claim| format!("  {claim}"));
        console::out(format_args!(
            "{}  {}  {origin}{claim}",
            granted.id,
            STANDARD.encode(granted.key.expose())
        ));
    }
}
