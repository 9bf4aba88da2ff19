//! The same run with one seed after the other, as many at a time as there are threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;

/// Runs `work` once for each of the seeds from `first` on and returns what came of each, in their order;
/// `done` hears how many have ended.
///
/// # Errors
///
/// The error of the lowest seed that met one.
///
/// # Panics
///
/// Where `work` does.
pub fn repeat<T: Send>(
    first: u64,
    n_seeds: usize,
    threads: usize,
    work: impl Fn(u64) -> Result<T> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>> {
    let (next, n_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Seeds begin in their order, so that no lower one is left out by this.
    let has_failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<T>>>> = (0..n_seeds).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, n_seeds.max(1)) {
            scope.spawn(|| {
                while !has_failed.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(result) = results.get(place) else { break };
                    let outcome = work(first.saturating_add(place as u64));
                    has_failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    *result.lock().expect("nobody panics while holding it") = Some(outcome);
                    done(n_done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let taken = results.into_iter().map(|result| {
        let result = result.into_inner().expect("nobody panicked while holding it");
        result.expect("all ran, or the one that failed stands before")
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_seeds_on_any_number_of_threads() -> Result<()> {
        let expected: Vec<u64> = (7..27).map(|seed| seed * seed).collect();
        for threads in [0, 1, 2, 50] {
            let n_done = AtomicUsize::new(0);
            let told = |n| {
                n_done.fetch_max(n, Ordering::Relaxed);
            };
            assert_eq!(repeat(7, 20, threads, |seed| Ok(seed * seed), told)?, expected);
            assert_eq!(n_done.into_inner(), 20);
        }
        let failed =
            repeat(0, 9, 2, |seed| if seed > 3 { Err(anyhow!("{seed}")) } else { Ok(()) }, |_| {});
        assert_eq!(failed.err().map(|error| error.to_string()).as_deref(), Some("4"));
        Ok(())
    }
}
