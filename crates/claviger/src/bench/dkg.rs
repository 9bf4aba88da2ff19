//! Keys that a device generates itself, by an exchange of ephemeral keys with its gateway: the baseline to
//! which delivered keys are compared, and no part of the product.

use anyhow::{Context as _, Result};
use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use claviger_net::handshake::PublicKeyWork;
use claviger_net::meter::{Meter, Metered, Traffic};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Makes one key with a peer on loopback: what went over the wire, and what the device computed.
pub(super) async fn measure(is_authenticated: bool) -> Result<(Traffic, PublicKeyWork)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (device, gateway) = (Party::new(is_authenticated)?, Party::new(is_authenticated)?);
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
    let ((theirs, _), (ours, work)) = tokio::try_join!(answering, asking)?;
    anyhow::ensure!(ours == theirs, "the two ends have made two keys");
    Ok((counted.traffic(), work))
}

/// An end of the exchange; who is authenticated has a key to sign with, known to the other beforehand.
struct Party(Option<EcdsaKeyPair>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

impl Party {
    fn new(is_authenticated: bool) -> Result<Self> {
        let make = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = is_authenticated.then(make).transpose();
        Ok(Self(pair.ok().context("no key to sign with can be made")?))
    }

    fn public(&self) -> Option<Vec<u8>> {
        self.0.as_ref().map(|pair| pair.public_key().as_ref().to_vec())
    }

    /// Sends an ephemeral key, signed where there is a key to sign with, and takes the other's.
    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        turn: Turn,
        other: Option<&[u8]>,
    ) -> Result<(Vec<u8>, PublicKeyWork)> {
        let (random, mut work) = (SystemRandom::new(), PublicKeyWork::default());
        let own = EphemeralPrivateKey::generate(&ECDH_P256, &random).ok().context("no key")?;
        work.key_generations += 1;
        let mut message = own.compute_public_key().ok().context("no public key")?.as_ref().to_vec();
        if let Some(pair) = &self.0 {
            let signature = pair.sign(&random, &message).ok().context("no signature")?;
            work.signatures += 1;
            message.extend(signature.as_ref());
        }
        let heard = match turn {
            Turn::First => {
                stream.write_all(&message).await?;
                read(&mut stream, message.len()).await?
            }
            Turn::Second => {
                let heard = read(&mut stream, message.len()).await?;
                stream.write_all(&message).await?;
                heard
            }
        };
        let (point, signed) = heard.split_at(POINT);
        if let Some(other) = other {
            let key = signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, other);
            key.verify(point, signed).ok().context("the other end is somebody else")?;
            work.verifications += 1;
        }
        let point = UnparsedPublicKey::new(&ECDH_P256, point);
        let secret = agreement::agree_ephemeral(own, point, (), |secret| Ok(secret.to_vec()));
        work.agreements += 1;
        Ok((secret.ok().context("no agreement")?, work))
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// An uncompressed point of P-256.
const POINT: usize = 65;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_baselines_are_what_the_comparison_says() {
        let (traffic, work) = measure(false).await.unwrap();
        assert_eq!((traffic.bytes(), work.total()), (130, 2));
        let (traffic, work) = measure(true).await.unwrap();
        assert_eq!((traffic.bytes(), traffic.turns, work.total()), (258, 1, 4));
    }
}
