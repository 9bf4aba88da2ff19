//! How much memory a device takes: a microcontroller has little.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "the figure is shown on request")]

use claviger_device::{
    Action, Delivery, Device, FlashImage, KeyAnswer, KeyPath, KeyRequest, Profile,
};
use claviger_frames::{Epoch, GatewaySecret, key_frame, split_bootstrap};
use claviger_units::{Eui64, Key256, Span, Timestamp};
use peak_alloc::PeakAlloc;
use rand::SeedableRng;
use rand::rngs::StdRng;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

/// Lets a device renew its key and publish; returns the most bytes that its heap has held.
fn peak_of(path: KeyPath) -> usize {
    let mut secret = split_bootstrap(&Key256::from_bytes([7; 32])).1;
    let mut epoch = Epoch::BOOTSTRAP;
    let mut flash = FlashImage::provision(Key256::from_bytes([7; 32]), EUI);
    let mut rng = StdRng::seed_from_u64(1);
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let profile = Profile { path, ..Profile::waking_every(Span::from_secs(60)) };
    let mut now = Timestamp::START;
    let mut device = Device::boot(now, &flash, profile).unwrap();
    while epoch.number() < 8 {
        while let Some(write) = device.poll_flash() {
            flash.write(&write);
            device.handle_flash(flash.slot(write.slot).expose());
        }
        match device.poll_action() {
            Some(Action::RequestKey(request)) => {
                let (frame, next) = next(&secret, epoch);
                match request {
                    // What the gateway protects is tested elsewhere: here the frame comes bare.
                    KeyRequest::Https { .. } | KeyRequest::Psk { .. } | KeyRequest::Coap { .. } => {
                        device.handle_key_answer(now, KeyAnswer::Frame(&frame));
                    }
                    KeyRequest::Await | KeyRequest::Pad { .. } => device.handle_pushed(now, &frame),
                }
                (secret, epoch) = next;
            }
            Some(Action::Publish { header, .. }) => {
                device.handle_published(now, header, Delivery::Acknowledged);
                if path == KeyPath::Push {
                    let (frame, next) = next(&secret, epoch);
                    device.handle_pushed(now, &frame);
                    (secret, epoch) = next;
                }
            }
            None => {
                now = device.poll_timeout().unwrap();
                device.handle_timeout(now, &mut rng);
            }
        }
    }
    HEAP.peak_usage() - before
}

fn next(secret: &GatewaySecret, epoch: Epoch) -> ([u8; 44], (GatewaySecret, Epoch)) {
    let (target, qkd) = (Epoch::new(epoch.number() + 1), Key256::from_bytes([9; 32]));
    let frame = key_frame::seal_compact(secret, target, &qkd);
    (frame, (secret.next(&qkd, EUI, epoch, target), target))
}

#[test]
fn a_device_lives_in_eight_kilobytes() {
    for path in KeyPath::ALL {
        let peak = peak_of(path);
        println!("{path}: {peak} bytes at most on the heap");
        assert!((500..8192).contains(&peak), "{path}: {peak} bytes");
    }
}
