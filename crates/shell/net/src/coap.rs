//! CoAP over UDP: datagrams answered one by one, and asked for until an answer comes (RFC 7252).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use claviger_units::Eui64;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::meter::Traffic;
use crate::shutdown::Shutdown;

/// What a datagram is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The datagram to send back.
    pub datagram: Vec<u8>,
    /// Who has proven to ask, where anybody has: for him the answer is kept.
    pub asker: Option<Eui64>,
}

/// Answers datagrams until `shutdown`.
///
/// Whoever has proven to be an asker and repeats his newest datagram (`RFC 7252` §4.5) gets the answer that
/// he got before, for as long as a sender may repeat it; `answer` sees it only once. One answer is kept for
/// each asker (`NSTART` of §4.7 is 1), and none for strangers, who so can displace nothing. `None` is
/// silence. A datagram that comes while [`MOST_AT_ONCE`] are being answered is dropped: its sender repeats
/// it. One longer than [`LONGEST_QUESTION`] is dropped too.
pub async fn serve<F, A>(socket: UdpSocket, shutdown: &Shutdown, answer: F)
where
    F: Fn(Vec<u8>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Option<Answer>> + Send + 'static,
{
    let socket = Arc::new(socket);
    let answers = Arc::new(Mutex::new(Answers::default()));
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    // One byte more, by which what is too long is known.
    let mut buffer = vec![0; LONGEST_QUESTION + 1];
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error tells of an earlier answer that found nobody.
        let Ok((length, from)) = received else { continue };
        if length > LONGEST_QUESTION {
            continue;
        }
        let datagram = buffer[..length].to_vec();
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let key = (from, datagram.clone());
        let known = answers.lock().unwrap_or_else(PoisonError::into_inner).begin(&key);
        match known {
            Known::Nothing => {}
            Known::UnderWay => continue,
            Known::Answered(bytes) => {
                socket.send_to(&bytes, from).await.ok();
                continue;
            }
        }
        let (socket, answers, answer) = (Arc::clone(&socket), Arc::clone(&answers), answer.clone());
        tokio::spawn(async move {
            let answered = answer(datagram).await;
            if let Some(Answer { datagram, .. }) = &answered {
                socket.send_to(datagram, from).await.ok();
            }
            answers.lock().unwrap_or_else(PoisonError::into_inner).end(key, answered);
            drop(place);
        });
    }
}

/// What is being answered, and what each asker was answered last.
#[derive(Default)]
struct Answers {
    under_way: HashSet<Key>,
    answered: HashMap<Key, Vec<u8>>,
    // Invariant: holds the keys of `answered`, each once.
    newest: HashMap<Eui64, (Instant, Key)>,
    /// For how many askers answers are kept before old ones are looked for.
    next_sweep: usize,
}

/// Who sent what.
type Key = (SocketAddr, Vec<u8>);

enum Known {
    Nothing,
    UnderWay,
    Answered(Vec<u8>),
}

impl Answers {
    fn begin(&mut self, key: &Key) -> Known {
        if let Some(bytes) = self.answered.get(key) {
            return Known::Answered(bytes.clone());
        }
        if self.under_way.insert(key.clone()) { Known::Nothing } else { Known::UnderWay }
    }

    fn end(&mut self, key: Key, answered: Option<Answer>) {
        self.under_way.remove(&key);
        let Some(Answer { datagram, asker: Some(asker) }) = answered else { return };
        let now = Instant::now();
        if let Some((_, earlier)) = self.newest.insert(asker, (now, key.clone())) {
            self.answered.remove(&earlier);
        }
        self.answered.insert(key, datagram);
        if self.newest.len() >= self.next_sweep {
            self.sweep(now);
        }
    }

    /// Forgets what nobody can repeat any more; what is left doubles before the next time.
    fn sweep(&mut self, now: Instant) {
        let answered = &mut self.answered;
        self.newest.retain(|_, (since, key)| {
            let is_kept = now.duration_since(*since) < KEPT;
            if !is_kept {
                answered.remove(key);
            }
            is_kept
        });
        self.next_sweep = (2 * self.newest.len()).max(FIRST_SWEEP);
    }
}

/// Sends a datagram until `is_answer` knows one that comes back for its answer, four times over at most
/// (RFC 7252 §4.2, with its standard times); returns the answer, and what went over the wire.
pub async fn ask(
    to: SocketAddr,
    datagram: &[u8],
    mut is_answer: impl FnMut(&[u8]) -> bool,
) -> io::Result<(Option<Vec<u8>>, Traffic)> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    let (mut traffic, mut patience) = (Traffic::default(), FIRST_PATIENCE);
    let mut buffer = vec![0; LONGEST];
    for _ in 0..=MOST_REPEATS {
        socket.send(datagram).await?;
        traffic.sent += datagram.len() as u64;
        let until = Instant::now() + patience;
        // An error tells that nobody is there yet: waiting is all the same.
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
            let Ok(length) = received else {
                tokio::time::sleep_until(until).await;
                break;
            };
            traffic.received += length as u64;
            if is_answer(&buffer[..length]) {
                traffic.turns += 1;
                return Ok((Some(buffer[..length].to_vec()), traffic));
            }
        }
        patience *= 2;
    }
    Ok((None, traffic))
}

/// The longest question: those for keys have 34 bytes, and whatever token a client adds.
pub const LONGEST_QUESTION: usize = 256;
/// The longest answer: all of ours are far shorter.
const LONGEST: usize = 1500;
/// `EXCHANGE_LIFETIME` of RFC 7252 §4.8.2.
const KEPT: Duration = Duration::from_secs(247);
/// For how many askers answers are kept before old ones are first looked for.
const FIRST_SWEEP: usize = 1024;
/// Datagrams that are answered at once.
pub const MOST_AT_ONCE: usize = 1024;
/// `ACK_TIMEOUT` and `MAX_RETRANSMIT` of RFC 7252 §4.8.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const MOST_REPEATS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    async fn serving(n_silent: u32) -> (SocketAddr, Arc<AtomicU32>, Shutdown) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let (counter, shutdown) = (Arc::clone(&asked), Shutdown::new());
        let signal = shutdown.clone();
        tokio::spawn(async move {
            let answer = move |datagram: Vec<u8>| {
                let n = counter.fetch_add(1, Relaxed);
                // Who says who he is has proven it here.
                let asker = datagram.first().filter(|who| **who != b'?');
                let asker = asker.map(|who| Eui64::from_bytes([*who; 8]));
                async move {
                    let datagram = [&datagram[..], &n.to_be_bytes()].concat();
                    (n >= n_silent).then_some(Answer { datagram, asker })
                }
            };
            serve(socket, &signal, answer).await;
        });
        (address, asked, shutdown)
    }

    #[tokio::test]
    async fn a_repeated_datagram_gets_the_same_answer_and_is_seen_once() {
        let (address, asked, shutdown) = serving(0).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let turns: [(&[u8], u32); 7] = [
            (b"one", 0),
            (b"one", 0),
            (b"two", 1),
            // What strangers ask displaces nothing, and is not kept.
            (b"?any", 2),
            (b"?any", 3),
            (b"one", 0),
            // The newest of each asker is kept.
            (b"other", 4),
        ];
        for (sent, n) in turns {
            socket.send(sent).await.unwrap();
            let mut heard = [0; 9];
            let length = socket.recv(&mut heard).await.unwrap();
            assert_eq!(heard[..length], [sent, &n.to_be_bytes()].concat());
        }
        for (sent, n) in [(&b"other"[..], 4_u32), (b"one", 5)] {
            socket.send(sent).await.unwrap();
            let mut heard = [0; 9];
            let length = socket.recv(&mut heard).await.unwrap();
            assert_eq!(heard[..length], [sent, &n.to_be_bytes()].concat());
        }
        assert_eq!(asked.load(Relaxed), 6);
        shutdown.trigger();
    }

    #[tokio::test]
    async fn what_is_too_long_is_dropped() {
        let (address, asked, shutdown) = serving(0).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        socket.send(&[b'?'; LONGEST_QUESTION + 1]).await.unwrap();
        socket.send(&[b'?'; LONGEST_QUESTION]).await.unwrap();
        let mut heard = [0; 2 * LONGEST_QUESTION];
        let length = socket.recv(&mut heard).await.unwrap();
        assert_eq!((length, asked.load(Relaxed)), (LONGEST_QUESTION + 4, 1));
        shutdown.trigger();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_by_time_and_by_who_asks() {
        let mut answers = Answers::default();
        let from: SocketAddr = "127.0.0.1:5683".parse().unwrap();
        let mut ask = |asker: Option<u64>, text: u64| {
            let key = (from, text.to_be_bytes().to_vec());
            assert!(matches!(answers.begin(&key), Known::Nothing));
            let asker = asker.map(|asker| Eui64::from_bytes(asker.to_be_bytes()));
            answers.end(key, Some(Answer { datagram: Vec::new(), asker }));
            assert_eq!(answers.answered.len(), answers.newest.len());
            answers.answered.len()
        };
        assert_eq!((0..5000).map(|n| ask(None, n)).max(), Some(0));
        assert_eq!((0..5000).map(|n| ask(Some(1), n)).max(), Some(1));
        assert_eq!((0..1024).map(|n| ask(Some(n), 10_000 + n)).max(), Some(1024));
        tokio::time::advance(KEPT).await;
        let most = (0..1025).map(|n| ask(Some(5000 + n), 20_000 + n)).max().unwrap();
        assert!(most <= 2048, "{most}");
        assert!(ask(Some(9000), 30_000) < 1100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_repeated_until_it_is_answered() {
        let (address, asked, shutdown) = serving(2).await;
        let mut n_refused = 0;
        let (answer, traffic) = ask(address, b"key", |bytes| {
            n_refused += 1;
            bytes.starts_with(b"key")
        })
        .await
        .unwrap();
        assert_eq!(answer.unwrap(), b"key\0\0\0\x02");
        assert_eq!((asked.load(Relaxed), n_refused), (3, 1));
        assert_eq!((traffic.sent, traffic.received, traffic.turns), (9, 7, 1));
        shutdown.trigger();
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_after_four_repeats() {
        let (address, _, shutdown) = serving(u32::MAX).await;
        let started = Instant::now();
        let (answer, traffic) = ask(address, b"key", |_| true).await.unwrap();
        assert_eq!((answer, traffic.sent), (None, 15));
        assert_eq!(started.elapsed(), Duration::from_secs(62));
        shutdown.trigger();
    }
}
