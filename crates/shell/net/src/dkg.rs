//! Keys that a device makes itself, by an exchange of ephemeral keys with its gateway (DKG): the baseline to
//! which delivered keys are compared. Nothing of the product rests on such a key.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use crate::handshake::PublicKeyWork;
use crate::meter::{Meter, Metered, Traffic};

/// An end of the exchange; who is authenticated has a key to sign with, known to the other beforehand.
#[derive(Debug)]
pub struct Party(Option<EcdsaKeyPair>);

/// What an exchange has left.
#[expect(missing_debug_implementations, reason = "it holds a secret")]
pub struct Made {
    /// The secret that both ends have.
    pub secret: Zeroizing<Vec<u8>>,
    /// What this end has computed for it.
    pub work: PublicKeyWork,
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The device.
    First,
    /// Its gateway.
    Second,
}

impl Party {
    /// An end that signs nothing: whoever sits between the two has both keys.
    #[must_use]
    pub const fn unsigned() -> Self {
        Self(None)
    }

    /// An end with a fresh key to sign with.
    pub fn signing() -> io::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        pair.map(|pair| Self(Some(pair))).or(Err(failed("no key to sign with can be made")))
    }

    /// Returns by what the other end knows this one; `None` of one that signs nothing.
    #[must_use]
    pub fn public(&self) -> Option<Vec<u8>> {
        self.0.as_ref().map(|pair| pair.public_key().as_ref().to_vec())
    }

    /// Sends an ephemeral key, signed where there is a key to sign with, and takes the other's, which must be
    /// signed by `other` where that is known.
    pub async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        turn: Turn,
        other: Option<&[u8]>,
    ) -> io::Result<Made> {
        let (random, mut work) = (SystemRandom::new(), PublicKeyWork::default());
        let own = EphemeralPrivateKey::generate(&ECDH_P256, &random);
        let own = own.or(Err(failed("no key can be made")))?;
        work.key_generations += 1;
        let point = own.compute_public_key().or(Err(failed("no public key")))?;
        let mut message = point.as_ref().to_vec();
        if let Some(pair) = &self.0 {
            let signature = pair.sign(&random, &message).or(Err(failed("no signature")))?;
            work.signatures += 1;
            message.extend(signature.as_ref());
        }
        if turn == Turn::First {
            stream.write_all(&message).await?;
        }
        let mut heard = vec![0; message.len()];
        stream.read_exact(&mut heard).await?;
        if turn == Turn::Second {
            stream.write_all(&message).await?;
        }
        let (point, signed) = heard.split_at(POINT);
        if let Some(other) = other {
            let key = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, other);
            key.verify(point, signed).or(Err(failed("the other end is somebody else")))?;
            work.verifications += 1;
        }
        let point = UnparsedPublicKey::new(&ECDH_P256, point);
        let take = |secret: &[u8]| Ok(Zeroizing::new(secret.to_vec()));
        let secret = agreement::agree_ephemeral(own, point, failed("no agreement"), take)?;
        work.agreements += 1;
        Ok(Made { secret, work })
    }
}

/// Makes a key with a peer that signs nothing: what went over the wire. The key itself is destroyed.
pub async fn make(peer: SocketAddr) -> io::Result<Traffic> {
    let meter = Meter::new();
    let stream = Metered::new(TcpStream::connect(peer).await?, meter.clone());
    Party::unsigned().exchange(stream, Turn::First, None).await?;
    Ok(meter.traffic())
}

/// Makes a key with everybody who asks for one, for ever, and destroys it.
pub async fn answer(listener: TcpListener) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files, perhaps; nothing that is over for good.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        drop(tokio::spawn(async move {
            let party = Party::unsigned();
            let exchange = party.exchange(stream, Turn::Second, None);
            drop(tokio::time::timeout(PATIENCE, exchange).await);
        }));
    }
}

/// Makes one key between two ends on loopback: what went over the wire, and what the device computed.
pub async fn measure(device: Party, gateway: Party) -> io::Result<(Traffic, PublicKeyWork)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let known = (device.public(), gateway.public());
    let counted = Meter::new();
    let answering = async {
        let (stream, _) = listener.accept().await?;
        gateway.exchange(stream, Turn::Second, known.0.as_deref()).await
    };
    let asking = async {
        let stream = Metered::new(TcpStream::connect(address).await?, counted.clone());
        device.exchange(stream, Turn::First, known.1.as_deref()).await
    };
    let (theirs, ours) = tokio::try_join!(answering, asking)?;
    if ours.secret != theirs.secret {
        return Err(failed("the two ends have made two keys"));
    }
    Ok((counted.traffic(), ours.work))
}

fn failed(what: &'static str) -> io::Error {
    io::Error::other(what)
}

/// An uncompressed point of P-256.
const POINT: usize = 65;

/// Between two attempts to take a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_baselines_are_what_the_comparison_says() {
        let (traffic, work) = measure(Party::unsigned(), Party::unsigned()).await.unwrap();
        assert_eq!((traffic.bytes(), work.total()), (130, 2));
        let signing = || Party::signing().unwrap();
        let (traffic, work) = measure(signing(), signing()).await.unwrap();
        assert_eq!((traffic.bytes(), traffic.turns, work.total()), (258, 1, 4));
    }

    #[tokio::test]
    async fn a_forged_point_is_refused() {
        let (device, gateway) = (Party::signing().unwrap(), Party::signing().unwrap());
        let (near, far) = tokio::io::duplex(1024);
        let stranger = Party::signing().unwrap().public();
        let answering = gateway.exchange(far, Turn::Second, None);
        let asking = device.exchange(near, Turn::First, stranger.as_deref());
        let (_, asked) = tokio::join!(answering, asking);
        let said = asked.err().unwrap().to_string();
        assert!(said.contains("somebody else"), "{said}");
    }

    #[tokio::test]
    async fn whoever_asks_is_answered() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let peer = listener.local_addr().unwrap();
        let answering = tokio::spawn(answer(listener));
        for _ in 0..2 {
            assert_eq!(make(peer).await.unwrap().bytes(), 130);
        }
        answering.abort();
    }
}
