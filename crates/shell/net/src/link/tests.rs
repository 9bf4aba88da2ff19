use super::*;
use crate::pki::DemoAuthority;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);
const QUICK: Timing = Timing {
    ping: Duration::from_millis(20),
    silence: Duration::from_millis(800),
    deaf: Duration::from_millis(200),
    ..Timing::STANDARD
};

async fn next(link: &mut Link) -> LinkEvent {
    timeout(PATIENCE, link.next()).await.expect("an event in time")
}

async fn connected(link: &mut Link) -> Generation {
    match next(link).await {
        LinkEvent::Connected(generation) => generation,
        other => panic!("{other:?} in place of Connected"),
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A peer made by hand, after the greetings.
async fn by_hand(address: &str) -> TcpStream {
    timeout(PATIENCE, greet(connect(address).await.unwrap())).await.unwrap().unwrap()
}

fn parties() -> (DemoAuthority, SaeId, SaeId) {
    let authority = DemoAuthority::generate("demo").unwrap();
    (authority, "kme-a".parse().unwrap(), "kme-b".parse().unwrap())
}

fn dial_as(authority: &DemoAuthority, own: &str, address: &str, peer: &SaeId) -> Link {
    let identity = authority.issue(own, &[]).unwrap().identity();
    dial_tls(address, tls::client_mutual(&identity, &authority.trust()), peer).unwrap()
}

#[tokio::test]
async fn named_parties_exchange_frames_and_strangers_are_refused() {
    let (authority, a, b) = parties();
    let identity = authority.issue(b.as_str(), &[]).unwrap().identity();
    let (listener, address) = listen().await;
    let mut at_b =
        serve_tls(listener, tls::server_mutual(&identity, &authority.trust()), a.clone());
    // A stranger of the same authority, and one who takes the server for somebody else.
    let mut strangers =
        [dial_as(&authority, "kme-x", &address, &b), dial_as(&authority, a.as_str(), &address, &a)];
    let mut at_a = dial_as(&authority, a.as_str(), &address, &b);

    let (from_a, from_b) = (connected(&mut at_a).await, connected(&mut at_b).await);
    let long = vec![7; MAX_FRAME];
    for frame in [vec![1], vec![2], long.clone()] {
        at_a.sender().send(from_a, frame.clone()).await.unwrap();
        at_b.sender().send(from_b, frame).await.unwrap();
    }
    for frame in [vec![1], vec![2], long] {
        assert_eq!(next(&mut at_b).await, LinkEvent::Frame(frame.clone()));
        assert_eq!(next(&mut at_a).await, LinkEvent::Frame(frame));
    }
    for length in [0, MAX_FRAME + 1] {
        let refused = at_a.sender().send(from_a, vec![0; length]).await;
        assert_eq!(refused, Err(SendError::Unfit { length }));
    }
    for stranger in &mut strangers {
        assert!(timeout(Duration::from_millis(300), stranger.next()).await.is_err());
    }
    assert!(timeout(Duration::from_millis(10), at_b.next()).await.is_err());
}

#[tokio::test]
async fn a_name_that_no_certificate_can_prove_is_refused() {
    let (authority, _, _) = parties();
    let config = tls::client_anonymous(&authority.trust());
    let refused = dial_tls("127.0.0.1:1", config, &"two words".parse().unwrap()).unwrap_err();
    assert!(refused.to_string().starts_with("`two words` cannot name"), "{refused}");
}

#[tokio::test]
async fn a_newer_connection_supersedes_and_silent_or_garbled_ones_do_not() {
    let (listener, address) = listen().await;
    let open = |stream, _| greet_back(stream);
    let mut link = serve(listener, "peer".into(), QUICK, Arrival::Supersedes, open);
    let mut first = by_hand(&address).await;
    let old = connected(&mut link).await;

    let _silent = connect(&address).await.unwrap();
    let mut garbled = connect(&address).await.unwrap();
    garbled.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(garbled.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    link.sender().send(old, vec![1]).await.unwrap();

    let _second = by_hand(&address).await;
    assert_eq!(next(&mut link).await, LinkEvent::Disconnected);
    let new = connected(&mut link).await;
    assert!(new > old);
    assert_eq!(link.sender().send(old, vec![2]).await, Err(SendError::Stale));
    link.sender().send(new, vec![3]).await.unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, first.read_to_end(&mut heard)).await.unwrap().ok();
    // Signs of life, frames of no bytes, may stand around it.
    assert!(heard.windows(5).any(|bytes| bytes == [0, 0, 0, 1, 1]), "{heard:?}");
    assert!(!heard.contains(&2) && !heard.contains(&3), "{heard:?}");
}

/// Anybody can connect without TLS: who has proved itself above is not displaced by that.
#[tokio::test]
async fn without_tls_the_present_connection_stays() {
    let (listener, address) = listen().await;
    let mut link = serve_plain(listener, "classical channel");
    let mut first = by_hand(&address).await;
    let generation = connected(&mut link).await;
    let mut second = by_hand(&address).await;
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    link.sender().send(generation, vec![7]).await.unwrap();
    let mut heard = [0; 5];
    // A sign of life may come first.
    while heard != [0, 0, 0, 1, 7] {
        heard.rotate_left(1);
        first.read_exact(&mut heard[4..]).await.unwrap();
    }
    drop(first);
    assert_eq!(next(&mut link).await, LinkEvent::Disconnected);
    let _third = by_hand(&address).await;
    connected(&mut link).await;
}

#[tokio::test]
async fn a_dialer_comes_back_by_itself() {
    let (listener, address) = listen().await;
    let mut there = serve_plain(listener, "here");
    let mut link = dial_plain(&address, "there");
    let old = connected(&mut link).await;
    connected(&mut there).await;
    drop(there);
    assert_eq!(next(&mut link).await, LinkEvent::Disconnected);
    assert_eq!(link.sender().send(old, vec![1]).await, Err(SendError::Stale));

    let mut there = serve_plain(TcpListener::bind(&address).await.unwrap(), "here");
    let new = connected(&mut link).await;
    assert!(new > old);
    connected(&mut there).await;
    link.sender().send(new, vec![1]).await.unwrap();
    assert_eq!(next(&mut there).await, LinkEvent::Frame(vec![1]));
}

#[tokio::test]
async fn an_oversized_frame_closes_the_connection() {
    let (listener, address) = listen().await;
    let mut link = serve_plain(listener, "peer");
    let mut peer = by_hand(&address).await;
    connected(&mut link).await;
    peer.write_all(&(u32::try_from(MAX_FRAME).unwrap() + 1).to_be_bytes()).await.unwrap();
    assert_eq!(next(&mut link).await, LinkEvent::Disconnected);
}

#[tokio::test]
async fn a_dead_peer_is_noticed_and_a_quiet_one_is_not() {
    let (listener, address) = listen().await;
    let open = move || {
        let address = address.clone();
        async move { greet(connect(&address).await?).await }
    };
    let mut link = dial("peer".into(), QUICK, open);
    let mut peer = greet_back(listener.accept().await.unwrap().0).await.unwrap();
    connected(&mut link).await;
    for _ in 0..30 {
        assert!(timeout(Duration::from_millis(40), link.next()).await.is_err());
        peer.write_all(&[0; 4]).await.unwrap();
    }
    assert_eq!(next(&mut link).await, LinkEvent::Disconnected);
}

#[tokio::test]
async fn a_slow_role_slows_its_peer_and_loses_nothing() {
    const FRAME: usize = 256 * 1024;
    let (listener, address) = listen().await;
    let mut slow = serve_plain(listener, "fast");
    let mut fast = dial_plain(&address, "slow");
    let generation = connected(&mut fast).await;
    let sender = fast.sender();
    let mut sent = 0;
    while let Ok(taken) =
        timeout(Duration::from_millis(300), sender.send(generation, vec![sent; FRAME])).await
    {
        taken.unwrap();
        sent += 1;
        assert!(sent < 200, "no back-pressure");
    }
    connected(&mut slow).await;
    for n in 0..sent {
        assert_eq!(next(&mut slow).await, LinkEvent::Frame(vec![n; FRAME]));
    }
}

#[tokio::test]
async fn a_deaf_role_loses_its_connection() {
    let (listener, address) = listen().await;
    let mut link =
        serve(listener, "peer".into(), QUICK, Arrival::Supersedes, |stream, _| greet_back(stream));
    let mut peer = by_hand(&address).await;
    for n in 0..=u8::try_from(QUEUE).unwrap() {
        peer.write_all(&[0, 0, 0, 1, n]).await.unwrap();
    }
    timeout(PATIENCE, peer.read_to_end(&mut Vec::new())).await.unwrap().ok();
    connected(&mut link).await;
    while next(&mut link).await != LinkEvent::Disconnected {}
}

#[test]
fn frames_are_not_printed() {
    assert_eq!(format!("{:?}", LinkEvent::Frame(vec![0xA5; 3])), "Frame(.. 3 bytes)");
}
