//! SQLite and the engine in memory answer alike, whatever is done to both.

use crate::home::Home;
use claviger_durable::engine::Secrecy;
use claviger_durable::{Engine, EngineError, MemoryEngine, Table, Tx};
use proptest::collection::vec;
use proptest::prelude::*;

const TABLES: [Table; 3] = [Table::plain("one"), Table::secret("two"), Table::secret("three")];

#[derive(Clone, Debug)]
enum Op {
    Read(Vec<u8>),
    Scan(Vec<u8>, Vec<u8>, usize),
    Count(Vec<u8>),
    Write(Vec<u8>, Vec<u8>),
    Erase(Vec<u8>),
}

/// Keys that share prefixes, are empty, and end at the top of a range.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(vec![0, 1, 0x61, 0xFE, 0xFF]), 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => key().prop_map(Op::Read),
        2 => (key(), key(), 0..6_usize).prop_map(|(p, a, l)| Op::Scan(p, a, l)),
        1 => key().prop_map(Op::Count),
        6 => (key(), vec(any::<u8>(), 0..40)).prop_map(|(k, v)| Op::Write(k, v)),
        3 => key().prop_map(Op::Erase),
    ]
}

/// Runs the operations in one transaction; returns all answers as one text, or rolls back.
fn run(
    engine: &mut impl Engine,
    ops: &[(usize, Op)],
    commits: bool,
) -> Result<String, EngineError> {
    let mut answers = String::new();
    let fate = engine.transact(|tx| {
        for (table, op) in ops {
            answers += &apply(tx, TABLES[table % 3], op)?;
        }
        if commits { Ok(()) } else { Err(EngineError::Died) }
    });
    assert_eq!(fate, if commits { Ok(()) } else { Err(EngineError::Died) });
    Ok(answers)
}

fn apply(tx: &mut dyn Tx, table: Table, op: &Op) -> Result<String, EngineError> {
    Ok(match op {
        Op::Read(key) => {
            format!("{:?};", tx.read(table, key)?.map(|value| value.expose().to_vec()))
        }
        Op::Scan(prefix, after, limit) => {
            let rows = tx.scan(table, prefix, after, *limit)?.into_iter();
            format!("{:?};", rows.map(|(k, v)| (k, v.expose().to_vec())).collect::<Vec<_>>())
        }
        Op::Count(prefix) => format!("{};", tx.count(table, prefix)?),
        Op::Write(key, value) => tx.write(table, key, value).map(|()| String::new())?,
        Op::Erase(key) => tx.erase(table, key).map(|()| String::new())?,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_answer_alike(
        transactions in vec((vec((0..3_usize, op()), 0..20), prop::bool::weighted(0.7)), 0..10)
    ) {
        let home = Home::new();
        let (mut disk, mut memory) = (home.create(), MemoryEngine::new());
        for (ops, commits) in &transactions {
            let answers = run(&mut memory, ops, *commits);
            prop_assert_eq!(run(&mut disk, ops, *commits), answers);
        }
        drop(disk);
        let all: Vec<_> = (0..3).map(|t| (t, Op::Scan(vec![], vec![], 99))).collect();
        prop_assert_eq!(run(&mut home.open(), &all, true), run(&mut memory, &all, true));
    }
}

#[test]
fn a_table_is_plain_or_secret_by_its_constant() {
    assert_eq!(TABLES.map(|table| table.secrecy == Secrecy::Secret), [false, true, true]);
    let home = Home::new();
    let refused = home
        .create()
        .transact::<_, EngineError>(|tx| tx.write(Table::plain("x; DROP TABLE y"), b"", b""));
    assert_eq!(refused, Err(EngineError::Failed("a table name may hold only a-z and _")));
}
