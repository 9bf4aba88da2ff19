//! The whole device core, linked for a Cortex-M4F, with nothing of a board: to see that it builds, and how
//! large it is. A firmware puts its flash, its radio and its clock where this has values that the compiler
//! must not guess.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;
use core::panic::PanicInfo;

use claviger_device::{
    Action, Delivery, Device, FlashImage, KeyAnswer, KeyPath, KeyRequest, Profile,
};
use claviger_units::{Key256, Span, Timestamp};
use cortex_m_rt::entry;
use rand_core::{Infallible, TryRng};
use static_alloc::Bump;

/// Gives memory and takes none back: a board has an allocator of its own.
#[global_allocator]
static HEAP: Bump<[u8; 1 << 14]> = Bump::uninit();

#[entry]
fn start() -> ! {
    let slot = || black_box(Vec::new());
    let flash = FlashImage::from_slots(slot(), slot());
    let path = black_box(KeyPath::Push);
    let profile = Profile { path, ..Profile::waking_every(Span::from_secs(black_box(1800))) };
    let mut now = black_box(Timestamp::START);
    let Ok(mut device) = Device::boot(now, &flash, profile) else { halt() };
    if let Some((mark, keys)) = device.open_pad(black_box(&[])) {
        black_box((keys, device.attach_pad(mark)));
    }
    loop {
        while let Some(write) = device.poll_flash() {
            device.handle_flash(black_box(write.bytes.expose()));
        }
        match device.poll_action() {
            Some(Action::RequestKey(request)) => ask(&mut device, now, &request),
            Some(Action::Publish { header, frame }) => {
                black_box((device.mqtt_password(), frame));
                device.handle_published(now, header, black_box(Delivery::Acknowledged));
            }
            None => {
                now = black_box(now);
                device.handle_timeout(now, &mut Noise);
            }
        }
    }
}

fn ask(device: &mut Device, now: Timestamp, request: &KeyRequest) {
    match black_box(request) {
        KeyRequest::Https { .. } => device.handle_key_answer(now, KeyAnswer::Frame(black_box(&[]))),
        KeyRequest::Psk { path, .. } => {
            if let Some(version) = path.psk_version() {
                black_box((device.psk_identity(version), device.pre_shared_key(version)));
            }
            device.handle_key_answer(now, KeyAnswer::Frame(black_box(&[])));
        }
        KeyRequest::Coap { datagram } => {
            black_box(device.handle_coap(now, black_box(datagram)));
        }
        KeyRequest::Await => device.handle_pushed(now, black_box(&[])),
        KeyRequest::Pad { .. } => {
            device.handle_pad_key(now, black_box(Some(&Key256::from_bytes(black_box([0; 32])))));
        }
    }
}

/// Stands for the noise of a sensor.
struct Noise;

impl TryRng for Noise {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(black_box(0))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(black_box(0))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        black_box(bytes).fill(0);
        Ok(())
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    halt()
}

fn halt() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
