//! A tap on a connection: all bytes of both directions are kept.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A listener that passes everything on to another one.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// Listens at a port of its own; its threads end with the test.
    pub(crate) fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let kept = Arc::clone(&heard);
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                // Whoever calls before the target listens calls again.
                let Ok(target) = TcpStream::connect(target) else { continue };
                let ways =
                    [(caller.try_clone().unwrap(), target.try_clone().unwrap()), (target, caller)];
                for (from, to) in ways {
                    let kept = Arc::clone(&kept);
                    thread::spawn(move || pass(from, to, &kept));
                }
            }
        });
        Self { address, heard }
    }

    /// Returns what was heard so far, each direction of each connection for itself.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) {
    let way = {
        let mut kept = kept.lock().unwrap();
        kept.push(Vec::new());
        kept.len() - 1
    };
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        kept.lock().unwrap()[way].extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The end of one direction is the end of both.
    for stream in [&from, &to] {
        drop(stream.shutdown(Shutdown::Both));
    }
}
