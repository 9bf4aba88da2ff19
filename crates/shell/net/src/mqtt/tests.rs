//! A broker on loopback, with our own client and with mosquitto's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use claviger_units::Key256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::*;
use crate::accept::Limits;
use crate::listen;
use crate::psk::{self, Credentials, Keying, PskServer};
use crate::shutdown::Shutdown;

/// Devices `dev1`, `dev2`… with the password `pw-dev1`…, and one who may look at everything.
struct Desk {
    committed: Mutex<Vec<(String, Vec<u8>)>>,
    // What is published as "slow" waits here, after it was reported.
    gate: Semaphore,
    events: mpsc::UnboundedSender<String>,
}

impl BrokerHooks for Desk {
    async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
        tokio::task::yield_now().await;
        log_in.password == format!("pw-{}", log_in.user).as_bytes()
    }

    fn may_publish(&self, user: &str, topic: &str) -> bool {
        topic == format!("claviger/v1/{user}/up")
    }

    fn may_subscribe(&self, user: &str, filter: &str) -> bool {
        (user == "viewer" && filter == "claviger/v1/#")
            || filter == format!("claviger/v1/{user}/key")
    }

    async fn handle_publish(&self, _: &str, topic: &str, payload: Bytes) -> Result<(), Refused> {
        if payload == "refuse" {
            return Err(Refused);
        }
        if payload == "slow" {
            self.tell("waiting");
            self.gate.acquire().await.unwrap().forget();
        }
        self.committed.lock().unwrap().push((topic.to_owned(), payload.to_vec()));
        Ok(())
    }

    fn handle_attached(&self, user: &str) {
        self.tell(&format!("attached {user}"));
    }

    fn handle_detached(&self, user: &str) {
        self.tell(&format!("detached {user}"));
    }
}

impl Desk {
    fn tell(&self, event: &str) {
        self.events.send(event.to_owned()).unwrap();
    }

    fn payloads(&self) -> Vec<String> {
        let committed = self.committed.lock().unwrap();
        committed.iter().map(|(_, payload)| String::from_utf8_lossy(payload).into_owned()).collect()
    }
}

struct House {
    desk: Arc<Desk>,
    events: mpsc::UnboundedReceiver<String>,
    broker: Broker<Desk>,
    address: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl House {
    async fn open() -> Self {
        Self::open_at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn open_at(address: SocketAddr) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let desk = Desk { committed: Mutex::default(), gate: Semaphore::new(0), events: sender };
        let desk = Arc::new(desk);
        let broker = Broker::new(Arc::clone(&desk), STANDARD_LIMITS);
        let listener = listen::tcp(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let (serves, signal) = (broker.clone(), shutdown.clone());
        let serving = tokio::spawn(async move { serves.serve_plain(listener, &signal).await });
        Self { desk, events, broker, address, shutdown, serving }
    }

    fn access(&self, user: &str) -> Access {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        Access::plain(&host, port, user, user, &format!("pw-{user}"))
    }

    async fn client(&self, user: &str) -> (Client, Inbox) {
        Client::connect(&self.access(user)).await.unwrap()
    }

    /// Waits for an event; that somebody has gone is passed over where it is not asked for.
    async fn expect(&mut self, event: &str) {
        loop {
            let told = tokio::time::timeout(LONG, self.events.recv()).await;
            let told = told.expect("nothing happens").expect("the desk is open");
            if told == event {
                return;
            }
            assert!(told.starts_with("detached "), "{told} instead of {event}");
        }
    }

    async fn close(self) -> Arc<Desk> {
        self.shutdown.trigger();
        tokio::time::timeout(LONG, self.serving).await.expect("the broker ends").unwrap();
        self.desk
    }
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

fn up(user: &str) -> String {
    format!("claviger/v1/{user}/up")
}

#[tokio::test]
async fn the_acknowledgement_follows_the_commit() {
    let mut house = House::open().await;
    let (client, _inbox) = house.client("dev1").await;
    client.publish(&up("dev1"), "quick".into()).await.unwrap();
    assert_eq!(house.desk.payloads(), ["quick"]);

    let topic = up("dev1");
    let mut slow = Box::pin(client.publish(&topic, "slow".into()));
    assert!(tokio::time::timeout(SHORT, &mut slow).await.is_err(), "acknowledged too early");
    house.expect("waiting").await;
    assert_eq!(house.desk.payloads(), ["quick"]);
    house.desk.gate.add_permits(1);
    slow.as_mut().await.unwrap();
    drop(slow);
    assert_eq!(house.desk.payloads(), ["quick", "slow"]);
    client.disconnect().await;
    house.close().await;
}

#[tokio::test]
async fn a_refused_message_is_lost_with_its_connection_only() {
    let house = House::open().await;
    let (client, _inbox) = house.client("dev1").await;
    let (other, _other_inbox) = house.client("dev2").await;
    let refused = client.publish(&up("dev1"), "refuse".into()).await;
    assert_eq!(refused, Err(PublishError::Lost));
    let started = Instant::now();
    let (again, _inbox) = house.client("dev1").await;
    again.publish(&up("dev1"), "second try".into()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "the seat was not given up");
    other.publish(&up("dev2"), "undisturbed".into()).await.unwrap();
    assert_eq!(house.close().await.payloads(), ["second try", "undisturbed"]);
}

#[tokio::test]
async fn a_user_is_gone_when_its_last_connection_is() {
    let mut house = House::open().await;
    let (first, mut first_inbox) = house.client("dev1").await;
    first.subscribe("claviger/v1/dev1/key").await.unwrap();
    house.expect("attached dev1").await;
    // The second displaces the first, whose end says nothing of the second.
    let (second, mut inbox) = house.client("dev1").await;
    second.subscribe("claviger/v1/dev1/key").await.unwrap();
    house.expect("attached dev1").await;
    assert!(first_inbox.next().await.is_none());
    house.broker.publish("claviger/v1/dev1/key", b"frame".to_vec()).await;
    assert_eq!(inbox.next().await.unwrap().payload, "frame");
    assert!(house.events.try_recv().is_err());

    house.broker.close("dev2");
    second.publish(&up("dev1"), "still here".into()).await.unwrap();
    house.broker.close("dev1");
    house.expect("detached dev1").await;
    assert!(inbox.next().await.is_none());
    let (third, _inbox) = house.client("dev1").await;
    third.disconnect().await;
    house.expect("detached dev1").await;
    assert_eq!(house.close().await.payloads(), ["still here"]);
}

#[tokio::test]
async fn clients_with_pre_shared_keys_are_served_and_known() {
    let mut house = House::open().await;
    let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let lookup: psk::Lookup = Arc::new(|name, _| (name == "dev1").then(|| key(1)));
    let psk = PskServer::new(lookup, STANDARD_LIMITS).unwrap();
    let (broker, shutdown) = (house.broker.clone(), house.shutdown.clone());
    let serving = tokio::spawn(async move { broker.serve_psk(listener, &psk, &shutdown).await });
    for keying in [Keying::Tls12, Keying::Tls13, Keying::Tls13Ephemeral] {
        let shown = Credentials { identity: "dev1".to_owned(), key: key(1) };
        let access = house.access("dev1").over_psk(address, keying, Arc::new(shown));
        let (client, mut inbox) = Client::connect(&access).await.unwrap();
        client.subscribe("claviger/v1/dev1/key").await.unwrap();
        house.expect("attached dev1").await;
        client.publish(&up("dev1"), "by key".into()).await.unwrap();
        house.broker.publish("claviger/v1/dev1/key", vec![7; 5000]).await;
        assert_eq!(inbox.next().await.unwrap().payload.len(), 5000);
        client.disconnect().await;
        house.expect("detached dev1").await;
    }
    let shown = Arc::new(Credentials { identity: "dev1".to_owned(), key: key(2) });
    let refused = house.access("dev1").over_psk(address, Keying::Tls12, shown);
    assert!(matches!(Client::connect(&refused).await, Err(ConnectError::Unreachable(_))));
    assert_eq!(house.close().await.payloads(), ["by key"; 3]);
    tokio::time::timeout(LONG, serving).await.expect("the broker ends").unwrap();
}

fn key(byte: u8) -> Key256 {
    Key256::from_bytes([byte; 32])
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let house = House::open().await;
    let port = house.address.port();
    for access in [
        Access::plain("127.0.0.1", port, "dev1", "dev1", "guess"),
        Access::plain("127.0.0.1", port, "dev1", "", ""),
    ] {
        let refused = Client::connect(&access).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
    }
    house.close().await;
}

#[tokio::test]
async fn foreign_topics_and_filters_are_refused() {
    let house = House::open().await;
    let (client, _inbox) = house.client("dev1").await;
    let foreign = client.publish(&up("dev2"), "forged".into()).await;
    assert!(matches!(foreign, Err(PublishError::NotNow(_))), "{foreign:?}");
    for filter in ["claviger/v1/dev2/key", "claviger/v1/#", "#", "$share/g/claviger/v1/#"] {
        assert_eq!(client.subscribe(filter).await, Err(PublishError::NotSubscribed), "{filter}");
    }
    assert_eq!(client.publish("a/#", "x".into()).await, Err(PublishError::Invalid));
    client.publish(&up("dev1"), "still here".into()).await.unwrap();
    assert_eq!(house.close().await.payloads(), ["still here"]);
}

/// Reads a packet of less than 128 bytes, without its header.
async fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).await.unwrap();
    let mut body = vec![0; header[1].into()];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// A broker made by hand that answers the publications in turn with these reason codes.
async fn scripted(reasons: &'static [u8]) -> Access {
    let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_packet(&mut stream).await;
        stream.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        for reason in reasons {
            let body = read_packet(&mut stream).await;
            let id = 2 + usize::from(body[1]);
            stream.write_all(&[0x40, 4, body[id], body[id + 1], *reason, 0]).await.unwrap();
        }
    });
    Access::plain("127.0.0.1", port, "gateway", "gateway", "pw")
}

/// What lies in the message is final; what an operator may mend, or what passes, is not.
#[tokio::test]
async fn final_refusals_are_told_from_those_of_the_moment() {
    const REASONS: [u8; 7] = [0x90, 0x99, 0x80, 0x83, 0x87, 0x97, 0];
    let forwarder = Forwarder::new(scripted(&REASONS).await);
    for reason in REASONS {
        let answer = forwarder.deliver("a/topic", "x".into()).await;
        let fits = match reason {
            0 => answer == Ok(()),
            0x90 | 0x99 => matches!(answer, Err(PublishError::Refused(_))),
            _ => matches!(answer, Err(PublishError::NotNow(_))),
        };
        assert!(fits, "{reason:#x} led to {answer:?}");
    }
}

#[tokio::test]
async fn what_the_role_publishes_reaches_the_attached_device() {
    let mut house = House::open().await;
    let (client, mut inbox) = house.client("dev1").await;
    let topic = "claviger/v1/dev1/key";
    house.broker.publish(topic, b"nobody listens".to_vec()).await;
    client.subscribe(topic).await.unwrap();
    house.expect("attached dev1").await;
    house.broker.publish(topic, b"frame".to_vec()).await;
    let message = tokio::time::timeout(LONG, inbox.next()).await.unwrap().unwrap();
    assert_eq!((message.topic.as_str(), &message.payload[..]), (topic, &b"frame"[..]));
    client.disconnect().await;
    assert_eq!(inbox.next().await, None);
    house.close().await;
}

#[tokio::test]
async fn garbage_silence_and_crowds_disturb_nobody() {
    let house = House::open().await;
    let (client, _inbox) = house.client("dev1").await;
    let mut silent = Vec::new();
    for n in 0..50_u8 {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(&[n.wrapping_mul(37); 300]).await.unwrap();
        }
        silent.push(stream);
    }
    client.publish(&up("dev1"), "undisturbed".into()).await.unwrap();
    house.client("dev2").await.0.publish(&up("dev2"), "newcomer".into()).await.unwrap();
    assert_eq!(house.close().await.payloads(), ["undisturbed", "newcomer"]);
}

#[tokio::test]
async fn packets_have_a_longest_length() {
    let house = House::open().await;
    let (client, _inbox) = house.client("dev1").await;
    let long = Bytes::from(vec![b'x'; 65_000]);
    client.publish(&up("dev1"), long).await.unwrap();
    let longer = Bytes::from(vec![b'x'; 65_536]);
    assert_eq!(client.publish(&up("dev1"), longer).await, Err(PublishError::Invalid));

    let mut stream = log_in_311(&house, "dev2").await;
    // A PUBLISH that announces 1 MiB.
    stream.write_all(&[0x32, 0x80, 0x80, 0x40]).await.unwrap();
    drop(stream.write_all(&[b'x'; 100_000]).await);
    assert_closed(&mut stream).await;
    client.publish(&up("dev1"), "undisturbed".into()).await.unwrap();
    assert_eq!(house.close().await.committed.lock().unwrap().len(), 2);
}

/// MQTT 3.1.1 has no acknowledgement that says no: the connection ends instead.
#[tokio::test]
async fn a_311_client_is_never_told_that_a_refused_message_is_safe() {
    let house = House::open().await;
    for (topic, payload) in [(up("dev2"), "forged"), (up("dev1"), "refuse")] {
        let mut stream = log_in_311(&house, "dev1").await;
        stream.write_all(&publish_311(&topic, payload)).await.unwrap();
        assert_closed(&mut stream).await;
    }
    let mut stream = log_in_311(&house, "dev1").await;
    stream.write_all(&publish_311(&up("dev1"), "good")).await.unwrap();
    let mut puback = [0; 4];
    stream.read_exact(&mut puback).await.unwrap();
    assert_eq!(puback, [0x40, 2, 0, 7]);
    assert_eq!(house.close().await.payloads(), ["good"]);
}

async fn log_in_311(house: &House, user: &str) -> TcpStream {
    let mut body = b"\x00\x04MQTT\x04\xc2\x00\x3c".to_vec();
    for text in [user, user, &format!("pw-{user}")] {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(&packet(0x10, &body)).await.unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

/// `QoS` 1, packet 7.
fn publish_311(topic: &str, payload: &str) -> Vec<u8> {
    let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
    packet(0x32, &[&length, topic.as_bytes(), &[0, 7], payload.as_bytes()].concat())
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128, "one byte of length");
    [&[kind, u8::try_from(body.len()).unwrap()], body].concat()
}

async fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
    // A reset is an end, too.
    drop(end.expect("the connection stays open"));
    assert_eq!(rest, b"", "something was answered");
}

#[tokio::test]
async fn the_forwarder_outlives_the_broker() {
    let house = House::open().await;
    let address = house.address;
    let forwarder = Arc::new(Forwarder::new(house.access("dev1")));
    forwarder.deliver(&up("dev1"), "first".into()).await.unwrap();
    assert!(forwarder.is_connected());
    house.close().await;
    let deliveries: Vec<_> = (0..40)
        .map(|n| {
            let forwarder = Arc::clone(&forwarder);
            let payload = Bytes::from(n.to_string());
            tokio::spawn(async move { forwarder.deliver(&up("dev1"), payload).await })
        })
        .collect();
    tokio::time::sleep(SHORT).await;
    assert!(!forwarder.is_connected());
    let house = House::open_at(address).await;
    for delivery in deliveries {
        delivery.await.unwrap().unwrap();
    }
    let mut seen = BTreeMap::<_, u32>::new();
    house.desk.payloads().into_iter().for_each(|payload| *seen.entry(payload).or_default() += 1);
    assert_eq!(seen.len(), 40);
    house.close().await;
}

#[tokio::test]
async fn closing_does_not_wait_for_clients() {
    let house = House::open().await;
    let (client, mut inbox) = house.client("dev1").await;
    let _silent = TcpStream::connect(house.address).await.unwrap();
    let started = Instant::now();
    house.close().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(inbox.next().await, None);
    assert!(!client.is_alive());
}

#[tokio::test]
async fn too_many_clients_are_turned_away() {
    let (sender, _events) = mpsc::unbounded_channel();
    let desk = Desk { committed: Mutex::default(), gate: Semaphore::new(0), events: sender };
    let limits = Limits { connections: 2, ..STANDARD_LIMITS };
    let broker = Broker::new(Arc::new(desk), limits);
    let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { broker.serve_plain(listener, &Shutdown::new()).await });
    let access = |user: &str| Access::plain("127.0.0.1", port, user, user, &format!("pw-{user}"));
    let first = Client::connect(&access("dev1")).await.unwrap();
    let _second = Client::connect(&access("dev2")).await.unwrap();
    Client::connect(&access("dev3")).await.unwrap_err();
    drop(first);
    let deadline = Instant::now() + LONG;
    while Client::connect(&access("dev3")).await.is_err() {
        assert!(Instant::now() < deadline, "the place is not given back");
    }
}

/// How many messages a second one connection commits, with a hook that costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a measurement, for whoever asks for the output")]
async fn messages_are_pipelined() {
    let house = House::open().await;
    let forwarder = Arc::new(Forwarder::new(house.access("dev1")));
    let started = Instant::now();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move {
                for _ in 0..50 {
                    forwarder.deliver(&up("dev1"), vec![0; 80].into()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("{:.0} messages/s over one connection", 1600.0 / started.elapsed().as_secs_f64());
    assert_eq!(house.close().await.payloads().len(), 1600);
}

/// With the programs of the package `mosquitto-clients`.
mod with_mosquitto {
    use std::process::{Output, Stdio};

    use tokio::process::Command;

    use super::*;
    use crate::pki::DemoAuthority;
    use crate::tls;

    const VERSIONS: [&str; 2] = ["mqttv5", "mqttv311"];

    fn command(program: &str, port: u16, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-p", &port.to_string(), "-u", user, "-q", "1"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !arguments.contains(&"-P") {
            command.args(["-P", &format!("pw-{user}")]);
        }
        command
    }

    async fn run(program: &str, house: &House, user: &str, arguments: &[&str]) -> Output {
        let port = house.address.port();
        let mut command = command(program, port, user, &["-h", "127.0.0.1"]);
        let ran = tokio::time::timeout(LONG, command.args(arguments).output()).await;
        ran.expect("the program hangs").expect("install mosquitto-clients")
    }

    /// A broker that nobody here wrote, which keeps what waits for somebody.
    async fn foreign_broker(folder: &std::path::Path) -> (tokio::process::Child, u16) {
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = folder.join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let mut broker = Command::new("mosquitto");
        broker.arg("-c").arg(&config).stderr(Stdio::null()).kill_on_drop(true);
        let broker = broker.spawn().expect("install mosquitto");
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(SHORT / 10).await;
        }
        (broker, port)
    }

    #[tokio::test]
    async fn a_subscription_gets_everything_once_it_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (_broker, port) = foreign_broker(folder.path()).await;
        let access = |id: &str| Access::plain("127.0.0.1", port, id, "u", "p");
        let subscription = Subscription::new(access("site"), "claviger/v1/+/up");
        let taken: Mutex<Vec<String>> = Mutex::default();
        let text = |message: &Message| String::from_utf8_lossy(&message.payload).into_owned();
        let forwarder = Forwarder::new(access("devices"));
        // A first connection, which makes the session.
        let is_there = async {
            let mut n = 0;
            while taken.lock().unwrap().is_empty() {
                forwarder.deliver(&up("dev1"), "hello".into()).await.unwrap();
                tokio::time::sleep(SHORT / 10).await;
                n += 1;
                assert!(n < 200, "nothing comes");
            }
        };
        let take = |message: Message| {
            taken.lock().unwrap().push(text(&message));
            std::future::ready(Ok(()))
        };
        tokio::select! {
            _ = subscription.receive(take) => {}
            () = is_there => {}
        }
        taken.lock().unwrap().clear();
        // Nobody is there.
        for n in 0..200 {
            forwarder.deliver(&up("dev1"), n.to_string().into()).await.unwrap();
        }
        // One that refuses now and then is given the same again; all come in their order.
        let refusals = Mutex::new(3);
        let take = |message: Message| {
            let text = text(&message);
            let refused = text == "77" && {
                let mut left = refusals.lock().unwrap();
                *left -= i32::from(*left > 0);
                *left > 0
            };
            if !refused && text != "hello" {
                taken.lock().unwrap().push(text);
            }
            std::future::ready(if refused { Err(Refused) } else { Ok(()) })
        };
        let all = async {
            while !taken.lock().unwrap().iter().any(|text| text == "199") {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        tokio::select! {
            _ = subscription.receive(take) => {}
            done = tokio::time::timeout(LONG, all) => done.expect("all that waited"),
        }
        assert_eq!(*refusals.lock().unwrap(), 0);
        let taken = taken.into_inner().unwrap();
        // What was on its way when one was refused may come twice, but nothing is missing.
        let mut once: Vec<u32> = Vec::new();
        for n in taken.iter().map(|text| text.parse::<u32>().unwrap()) {
            if !once.contains(&n) {
                once.push(n);
            }
        }
        assert_eq!(once.len(), 200, "{once:?}");
        let first = once.iter().position(|n| *n == 76).unwrap();
        assert!(once[..first].is_sorted(), "{once:?}");
    }

    #[tokio::test]
    async fn a_message_for_nobody_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (_broker, port) = foreign_broker(folder.path()).await;
        let access = |id: &str| Access::plain("127.0.0.1", port, id, "u", "p");
        let forwarder = Forwarder::new(access("gateway")).for_a_subscriber();
        let kept = forwarder.deliver(&up("dev1"), "reading".into()).await;
        assert!(matches!(kept, Err(PublishError::NotNow(_))), "{kept:?}");
        forwarder.retain("claviger/v1/dev1/key", "frame".into()).await.unwrap();
        let (client, _inbox) = Client::connect(&access("platform")).await.unwrap();
        client.subscribe("claviger/v1/+/up").await.unwrap();
        forwarder.deliver(&up("dev1"), "reading".into()).await.unwrap();
    }

    #[tokio::test]
    async fn a_retained_message_waits_for_who_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let (_broker, port) = foreign_broker(folder.path()).await;
        let access = |id: &str| Access::plain("127.0.0.1", port, id, "u", "p");
        let forwarder = Forwarder::new(access("gateway"));
        for frame in ["first", "second"] {
            forwarder.retain("claviger/v1/dev1/key", frame.into()).await.unwrap();
        }
        let (client, mut inbox) = Client::connect(&access("dev1")).await.unwrap();
        client.subscribe("claviger/v1/dev1/key").await.unwrap();
        let kept = tokio::time::timeout(LONG, inbox.next()).await.unwrap().unwrap();
        assert_eq!(&kept.payload[..], b"second");
        forwarder.retain("claviger/v1/dev1/key", Bytes::new()).await.unwrap();
        let (client, mut inbox) = Client::connect(&access("dev1-again")).await.unwrap();
        client.subscribe("claviger/v1/dev1/key").await.unwrap();
        assert!(tokio::time::timeout(SHORT, inbox.next()).await.is_err(), "it was taken away");
    }

    #[tokio::test]
    async fn publishes_and_is_refused() {
        let house = House::open().await;
        for version in VERSIONS {
            let topic = up("dev1");
            let good = ["-V", version, "-t", &topic, "-m", version];
            let ran = run("mosquitto_pub", &house, "dev1", &good).await;
            assert!(ran.status.success(), "{version}: {ran:?}");
            let wrong = ["-V", version, "-t", &topic, "-m", "no", "-P", "guess"];
            let ran = run("mosquitto_pub", &house, "dev1", &wrong).await;
            assert!(!ran.status.success(), "{version}: {ran:?}");
            let will = ["--will-topic", "claviger/v1/dev2/up", "--will-payload", "x"];
            let ran = run("mosquitto_pub", &house, "dev1", &[&good[..], &will].concat()).await;
            assert!(!ran.status.success(), "{version}: {ran:?}");
        }
        let foreign = ["-V", "mqttv5", "-t", "claviger/v1/dev2/up", "-m", "forged"];
        let ran = run("mosquitto_pub", &house, "dev1", &foreign).await;
        assert!(String::from_utf8_lossy(&ran.stderr).contains("Not authorized"), "{ran:?}");
        assert_eq!(house.close().await.payloads(), VERSIONS);
    }

    #[tokio::test]
    async fn waits_for_the_commit() {
        let mut house = House::open().await;
        for version in VERSIONS {
            let topic = up("dev1");
            let slow = ["-V", version, "-t", &topic, "-m", "slow"];
            {
                let mut ran = std::pin::pin!(run("mosquitto_pub", &house, "dev1", &slow));
                assert!(tokio::time::timeout(3 * SHORT, &mut ran).await.is_err(), "{version}");
                house.desk.gate.add_permits(1);
                assert!(ran.await.status.success());
            }
            house.expect("waiting").await;
        }
        assert_eq!(house.close().await.payloads(), ["slow", "slow"]);
    }

    #[tokio::test]
    async fn sees_every_frame_but_no_foreign_key() {
        let mut house = House::open().await;
        for version in VERSIONS {
            let port = house.address.port();
            let all = ["-V", version, "-t", "claviger/v1/#", "-C", "2", "-F", "%t %x"];
            let viewer = command("mosquitto_sub", port, "viewer", &all).spawn();
            let viewer = viewer.expect("install mosquitto-clients");
            house.expect("attached viewer").await;
            house.client("dev1").await.0.publish(&up("dev1"), "\x00\u{7f}".into()).await.unwrap();
            house.broker.publish("claviger/v1/dev2/key", b"frame".to_vec()).await;
            let seen =
                tokio::time::timeout(LONG, viewer.wait_with_output()).await.unwrap().unwrap();
            let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
            assert_eq!(seen, "claviger/v1/dev1/up 007f\nclaviger/v1/dev2/key 6672616d65\n");

            let foreign = ["-V", version, "-t", "claviger/v1/#", "-C", "1"];
            let ran = run("mosquitto_sub", &house, "dev1", &foreign).await;
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(said.contains("denied"), "{version}: {ran:?}");
            // A refused subscription attaches as well: it is only a hint.
            house.expect("attached dev1").await;
        }
        house.close().await;
    }

    #[tokio::test]
    async fn speaks_tls() {
        let house = House::open().await;
        let authority = DemoAuthority::generate("Test").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        authority.write_certificate(&ca).unwrap();
        let identity = authority.issue("gateway", &["localhost"]).unwrap().identity();
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (broker, shutdown) = (house.broker.clone(), house.shutdown.clone());
        let serving = tokio::spawn(async move {
            broker.serve_tls(listener, tls::server_auth_only(&identity), &shutdown).await;
        });

        let topic = up("dev1");
        let ca = ca.to_str().unwrap();
        let arguments = ["-h", "localhost", "-t", &topic, "-m", "by mosquitto", "--cafile", ca];
        let mut command = command("mosquitto_pub", port, "dev1", &arguments);
        let ran = command.output().await.expect("install mosquitto-clients");
        assert!(ran.status.success(), "{ran:?}");

        let access = Access::plain("localhost", port, "dev1", "dev1", "pw-dev1");
        let access = access.over_tls(tls::client_anonymous(&authority.trust()));
        let (client, _inbox) = Client::connect(&access).await.unwrap();
        client.publish(&topic, "by our own".into()).await.unwrap();
        client.disconnect().await;

        let stranger = DemoAuthority::generate("Stranger").unwrap().trust();
        let fooled = access.over_tls(tls::client_anonymous(&stranger));
        let refused = Client::connect(&fooled).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Unreachable(_)), "{refused}");
        assert_eq!(house.close().await.payloads(), ["by mosquitto", "by our own"]);
        serving.await.unwrap();
    }
}
