//! CoAP over UDP: datagrams answered one by one, and asked for until an answer comes (RFC 7252).
//!
//! What is in a datagram is not looked at but for its head: type, message id and token.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::meter::Traffic;
use crate::shutdown::Shutdown;

/// Answers datagrams until `shutdown`.
///
/// Whoever repeats a datagram (`RFC 7252` §4.5) gets the answer that it got before, for as long as a
/// sender may repeat it; `answer` sees each only once. `None` is silence. A datagram that comes while
/// [`MOST_AT_ONCE`] are being answered is dropped: its sender repeats it. One longer than [`LONGEST_QUESTION`]
/// is dropped too: anybody can send datagrams, and what they are answered is kept.
pub async fn serve<F, A>(socket: UdpSocket, shutdown: &Shutdown, answer: F)
where
    F: Fn(Vec<u8>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Option<Vec<u8>>> + Send + 'static,
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
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            answers.lock().unwrap_or_else(PoisonError::into_inner).forget(&key);
            continue;
        };
        let (socket, answers, answer) = (Arc::clone(&socket), Arc::clone(&answers), answer.clone());
        tokio::spawn(async move {
            let answered = answer(datagram).await;
            if let Some(bytes) = &answered {
                socket.send_to(bytes, from).await.ok();
            }
            answers.lock().unwrap_or_else(PoisonError::into_inner).end(&key, answered);
            drop(place);
        });
    }
}

/// What was answered of late.
#[derive(Default)]
struct Answers {
    of: HashMap<Key, Option<Vec<u8>>>,
    // Oldest first.
    order: VecDeque<(Instant, Key)>,
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
        let now = Instant::now();
        while let Some((since, _)) = self.order.front() {
            if now.duration_since(*since) < KEPT && self.order.len() <= MOST_KEPT {
                break;
            }
            if let Some((_, key)) = self.order.pop_front() {
                self.of.remove(&key);
            }
        }
        match self.of.get(key) {
            Some(Some(bytes)) => Known::Answered(bytes.clone()),
            Some(None) => Known::UnderWay,
            None => {
                self.of.insert(key.clone(), None);
                self.order.push_back((now, key.clone()));
                Known::Nothing
            }
        }
    }

    fn end(&mut self, key: &Key, answered: Option<Vec<u8>>) {
        match answered {
            Some(bytes) => {
                if let Some(place) = self.of.get_mut(key) {
                    *place = Some(bytes);
                }
            }
            None => self.forget(key),
        }
    }

    fn forget(&mut self, key: &Key) {
        self.of.remove(key);
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
/// Answers that are kept: about 20 MB at most, whoever asks. A fleet that asks more in that time has answers
/// forgotten, and who repeats a question then is refused and asks anew.
const MOST_KEPT: usize = 20_000;
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
                async move { (n >= n_silent).then(|| [&datagram[..], &n.to_be_bytes()].concat()) }
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
        for expected in [b"one\0\0\0\0", b"one\0\0\0\0", b"two\0\0\0\x01"] {
            socket.send(&expected[..3]).await.unwrap();
            let mut heard = [0; 9];
            let length = socket.recv(&mut heard).await.unwrap();
            assert_eq!(&heard[..length], expected);
        }
        assert_eq!(asked.load(Relaxed), 2);
        shutdown.trigger();
    }

    #[tokio::test]
    async fn what_is_too_long_is_dropped_and_what_is_kept_is_bounded() {
        let (address, asked, shutdown) = serving(0).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        socket.send(&[1; LONGEST_QUESTION + 1]).await.unwrap();
        socket.send(&[2; LONGEST_QUESTION]).await.unwrap();
        let mut heard = [0; 2 * LONGEST_QUESTION];
        let length = socket.recv(&mut heard).await.unwrap();
        assert_eq!((length, heard[0], asked.load(Relaxed)), (LONGEST_QUESTION + 4, 2, 1));
        shutdown.trigger();

        let mut answers = Answers::default();
        for n in 0..MOST_KEPT + 100 {
            let key = (address, n.to_be_bytes().to_vec());
            assert!(matches!(answers.begin(&key), Known::Nothing));
            answers.end(&key, Some(Vec::new()));
        }
        assert!(answers.of.len() <= MOST_KEPT + 1 && answers.order.len() <= MOST_KEPT + 1);
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
