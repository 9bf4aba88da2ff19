//! Many callers, one writer, few syncs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::home::Home;
use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_store::{StoreError, Writer};

const KEYS: Table = Table::secret("keys");
const OUTBOX: Table = Table::plain("outbox");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_takes_back_its_own_job_only() {
    let home = Home::new();
    let writer = Writer::spawn(home.create(), |_| Ok::<_, EngineError>(()), |()| {}).unwrap();
    let jobs = (0..100_u8).map(|n| {
        let writer = writer.clone();
        tokio::spawn(async move {
            writer
                .run(move |(), tx| {
                    tx.write(KEYS, &[n], &[n])?;
                    if n % 3 == 0 { Err(EngineError::Failed("refused")) } else { Ok(n) }
                })
                .await
        })
    });
    for (n, job) in jobs.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(job.await.unwrap().unwrap().is_err(), n % 3 == 0);
    }
    writer.stop().await;
    writer.ended().await;
    assert_eq!(writer.run(|(), _| Ok::<_, ()>(())).await, Err(StoreError::Stopped));
    let rows = home.open().transact::<_, EngineError>(|tx| tx.scan(KEYS, b"", b"", 999)).unwrap();
    assert_eq!(rows.len(), 66);
    assert!(rows.iter().all(|(key, value)| key[0] % 3 != 0 && value.expose() == key));
}

#[tokio::test]
async fn outputs_follow_the_commit_and_precede_the_answer() {
    let home = Home::new();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let outputs = Arc::clone(&sent);
    let writer = Writer::spawn(
        home.create(),
        |_| Ok::<_, EngineError>(vec!["opened"]),
        move |core: &mut Vec<&str>| outputs.lock().unwrap().append(core),
    )
    .unwrap();
    let job = |core: &mut Vec<&'static str>, tx: &mut dyn Tx| {
        core.push("moved");
        tx.write(OUTBOX, b"1", b"")
    };
    writer.run(job).await.unwrap().unwrap();
    assert_eq!(*sent.lock().unwrap(), ["opened", "moved"]);
}

#[tokio::test]
async fn an_engine_error_ends_the_writer_and_forgets_its_group() {
    let home = Home::new();
    let writer = Writer::spawn(home.create(), |_| Ok::<_, EngineError>(()), |()| {}).unwrap();
    // Hold the thread, so that the next jobs share the transaction.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let holder = writer.run(move |(), _| wait.recv());
    let good = writer.run(|(), tx| tx.write(OUTBOX, b"good", b""));
    // The job swallows the engine's error; the group is lost all the same.
    let bad = writer.run(|(), tx| {
        let _swallowed = tx.write(Table::plain("no such name!"), b"", b"");
        Ok::<_, EngineError>(())
    });
    let (held, good, bad, ()) = tokio::join!(holder, good, bad, async { go.send(()).unwrap() });
    let fault = StoreError::Engine(EngineError::Failed("a table name may hold only a-z and _"));
    assert_eq!(bad, Err(fault.clone()));
    assert_eq!(good, Err(fault.clone()));
    assert_eq!(held, Err(fault));
    writer.ended().await;
    let left = home.open().transact::<_, EngineError>(|tx| tx.count(OUTBOX, b""));
    assert_eq!(left, Ok(0));
}

#[tokio::test]
async fn a_panicking_job_ends_the_writer_without_a_commit() {
    let home = Home::new();
    let writer = Writer::spawn(home.create(), |_| Ok::<_, EngineError>(()), |()| {}).unwrap();
    let job = |(): &mut (), tx: &mut dyn Tx| -> Result<(), EngineError> {
        tx.write(OUTBOX, b"half", b"")?;
        panic!("on purpose")
    };
    assert_eq!(writer.run(job).await, Err(StoreError::Stopped));
    writer.ended().await;
    assert_eq!(home.open().transact::<_, EngineError>(|tx| tx.count(OUTBOX, b"")), Ok(0));
}

#[tokio::test]
async fn erased_secrets_leave_the_log_without_further_work() {
    let home = Home::new();
    let writer = Writer::spawn(home.create(), |_| Ok::<_, EngineError>(()), |()| {}).unwrap();
    writer.run(|(), tx| tx.write(KEYS, b"k", b"0123456789abcdef")).await.unwrap().unwrap();
    writer.run(|(), tx| tx.erase(KEYS, b"k")).await.unwrap().unwrap();
    let log = home.path().with_file_name("a.db-wal");
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        assert!(Instant::now() < deadline, "the log is not emptied");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A claim as a hand-out makes it: one sealed key erased, one record and one token written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a measurement, for whoever asks for the output")]
async fn claims_share_their_syncs() {
    const CLAIMS: u32 = 4000;
    let home = Home::new();
    let mut store = home.create();
    store
        .transact::<_, EngineError>(|tx| {
            (0..CLAIMS).try_for_each(|n| tx.write(KEYS, &n.to_be_bytes(), &[7; 32]))
        })
        .unwrap();
    let writer = Writer::spawn(store, |_| Ok::<_, EngineError>(0), |_| {}).unwrap();
    for callers in [1, 16, 128] {
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        let per_caller = if callers == 1 { 100 } else { 1900 / callers };
        for _ in 0..callers {
            let writer = writer.clone();
            tasks.spawn(async move {
                for _ in 0..per_caller {
                    writer.run(claim).await.unwrap().unwrap();
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        let secs = started.elapsed().as_secs_f64();
        let claims = callers * per_caller;
        println!("{callers} callers: {:.0} claims/s", f64::from(claims) / secs);
    }
    writer.stop().await;
}

fn claim(next: &mut u32, tx: &mut dyn Tx) -> Result<(), EngineError> {
    let id = next.to_be_bytes();
    tx.read(KEYS, &id)?.ok_or(EngineError::Damaged("keys"))?;
    tx.erase(KEYS, &id)?;
    tx.write(OUTBOX, &id, &[1; 120])?;
    tx.write(Table::plain("tokens"), &id, &[2; 48])?;
    *next += 1;
    Ok(())
}
