//! The presets that claim to be near an optimum are.

use claviger_photonics::LinkPreset;
use claviger_photonics::theory::expected;
use claviger_security::account::Clipping;
use claviger_security::channel::GatedChannel;
use claviger_security::entropy::Efficiency;
use claviger_security::optimise::{Goal, Task, one_decoy};
use claviger_security::sampling::FewErrors;
use claviger_security::{Epsilon, SecurityParameters};
use claviger_units::{Bits, Fraction};

/// Against the best source with one decoy for the same fibre and detectors. The optimiser's channel
/// is simpler than the preset's (no jitter, no extinction, no margins of a promised length), so the
/// optimum lies higher than any source could come here.
#[test]
fn the_modern_link_is_near_its_optimum() {
    let preset = LinkPreset::named("decoy-1ghz").unwrap();
    let block = preset.block_bits(u64::MAX);
    let task = Task {
        channel: GatedChannel {
            transmittance: Fraction::clamped(10_f64.powf(-0.4)),
            detector_efficiency: Fraction::clamped(0.1),
            dark_count: Fraction::clamped(6e-7),
            afterpulse: Fraction::clamped(0.04),
            misalignment: Fraction::clamped(0.005),
            dead_gates: preset.dead_gates(),
        },
        block: block.count(),
        // Both ends' words are charged.
        efficiency: Efficiency::from_ratio(2.0 * 1.08),
        security: SecurityParameters {
            secrecy: Epsilon::try_new(1e-10).unwrap(),
            correctness: Epsilon::try_new(1e-15).unwrap(),
        },
        clipping: Clipping::AsPrinted,
        few_errors: FewErrors::Serfling,
        goal: Goal::PerPulse,
    };
    let best = one_decoy(&task).unwrap();
    let promised = expected(&preset).promise(block).map_or(Bits::ZERO, |promise| promise.length());
    let ours = Fraction::of(promised.count(), block.count());
    assert!(
        ours.as_f64() > 0.8 * best.secret_share().as_f64(),
        "{ours} of {}",
        best.secret_share()
    );
}
