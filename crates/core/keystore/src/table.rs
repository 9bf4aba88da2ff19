//! The tables of a key store and how their rows read.

use claviger_durable::peer::PeerTables;
use claviger_durable::{EngineError, Table, Tx};
use claviger_units::{KeyId, SaeId, Timestamp};
use claviger_wire::DecodeError;
use claviger_wire::cursor::{Reader, Writer};
use claviger_wire::site::Position;

use crate::block::{Provenance, Site};

/// The record stream to the other KME; its records hold no key bytes.
pub(crate) const PEER: PeerTables =
    PeerTables { meta: Table::plain("kme_peer"), outbox: Table::plain("kme_outbox") };
/// Available keys: slot → id, origin, claim.
pub(crate) const KEYS: Table = Table::plain("keys");
/// Keys of blocks that Bob holds and Alice has not committed: slot → id, origin, claim.
pub(crate) const PENDING: Table = Table::plain("pending_keys");
/// The bits of available and pending keys: slot → 32 bytes.
pub(crate) const KEY_BYTES: Table = Table::secret("key_bytes");
/// Every known key by the low 64 bits of its id: → id, slot (no slot: it is held for slaves).
pub(crate) const IDS: Table = Table::plain("key_ids");
/// Own blocks whose DONE is not acknowledged: generation, block → sequence number of the DONE.
pub(crate) const UNCONFIRMED: Table = Table::plain("unconfirmed_blocks");
/// What became of the blocks of late: generation, block → [`Verdict`], acceptance.
pub(crate) const VERDICTS: Table = Table::plain("block_verdicts");
/// Handed-out keys that slaves of this site may fetch: id → [`Held`].
pub(crate) const HELD: Table = Table::plain("held_keys");
/// The bits of held keys until the last slave took them: id → bytes.
pub(crate) const HELD_BYTES: Table = Table::secret("held_bytes");
/// When held keys expire: time, id → nothing.
pub(crate) const EXPIRY: Table = Table::plain("held_expiry");
/// Handed-out keys that a slave has not taken yet: master, slave → count.
pub(crate) const PAIRS: Table = Table::plain("untaken_pairs");
/// Single values by name.
pub(crate) const META: Table = Table::plain("keystore_meta");

/// META: the limit kept for the peer.
pub(crate) const LIMIT_KEPT: &[u8] = b"limit_kept";
/// META: the highest own position ever handed out or burnt.
pub(crate) const HIGHEST_USED: &[u8] = b"highest_used";
/// META: the shares since the last block.
pub(crate) const SHARES: &[u8] = b"shares";

/// All tables that a reset empties.
pub(crate) const ALL: [Table; 11] =
    [KEYS, PENDING, KEY_BYTES, IDS, UNCONFIRMED, VERDICTS, HELD, HELD_BYTES, EXPIRY, PAIRS, META];

/// How many rows are read at a time.
pub(crate) const PAGE: usize = 128;

/// An owner and a position: where a key waits, equal at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) owner: Site,
    pub(crate) position: Position,
}

impl Slot {
    /// Returns the row key: owner, generation, block, index; sorts as the keys leave.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.position.put(Writer::new().raw(&owner_prefix(self.owner))).finish()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let owner = match reader.u8()? {
            0 => Site::A,
            1 => Site::B,
            _ => return Err(DecodeError::Field("owner")),
        };
        Ok(Self { owner, position: Position::read(reader)? })
    }

    pub(crate) const fn block(self) -> BlockNumber {
        BlockNumber { generation: self.position.generation, number: self.position.block }
    }
}

/// A block within its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockNumber {
    pub(crate) generation: u32,
    pub(crate) number: u64,
}

impl BlockNumber {
    pub(crate) fn bytes(self) -> Vec<u8> {
        Writer::new().u32(self.generation).u64(self.number).finish()
    }

    /// Returns the prefix of the slots of this block's keys of one owner.
    pub(crate) fn prefix(self, owner: Site) -> Vec<u8> {
        [owner_prefix(owner).as_slice(), &self.bytes()].concat()
    }

    pub(crate) fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let block = Self { generation: reader.u32()?, number: reader.u64()? };
        reader.finish().map(|()| block)
    }
}

/// Returns the prefix of all slots of one owner.
pub(crate) const fn owner_prefix(owner: Site) -> [u8; 1] {
    match owner {
        Site::A => [0],
        Site::B => [1],
    }
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The other end has not answered yet.
    Awaited,
    /// Its keys became available.
    Committed,
    /// It was erased.
    Aborted,
}

impl Verdict {
    const fn code(self) -> u8 {
        match self {
            Self::Awaited => 0,
            Self::Committed => 1,
            Self::Aborted => 2,
        }
    }

    const fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Awaited),
            1 => Ok(Self::Committed),
            2 => Ok(Self::Aborted),
            _ => Err(DecodeError::Field("verdict")),
        }
    }
}

/// Reads what became of a block of late, and what proved its acceptance.
pub(crate) fn read_verdict(
    tx: &dyn Tx,
    block: BlockNumber,
) -> Result<Option<(Verdict, [u8; 32])>, EngineError> {
    let Some(row) = tx.read(VERDICTS, &block.bytes())? else { return Ok(None) };
    let parse = |mut reader: Reader<'_>| -> Result<(Verdict, [u8; 32]), DecodeError> {
        let known = (Verdict::from_code(reader.u8()?)?, reader.array()?);
        reader.finish().map(|()| known)
    };
    parse(Reader::new(row.expose())).map(Some).or(Err(EngineError::Damaged(VERDICTS.name)))
}

/// Writes what became of a block, and forgets the oldest of too many.
pub(crate) fn write_verdict(
    tx: &mut dyn Tx,
    block: BlockNumber,
    verdict: Verdict,
    acceptance: [u8; 32],
) -> Result<(), EngineError> {
    let row = Writer::new().u8(verdict.code()).raw(&acceptance).finish();
    tx.write(VERDICTS, &block.bytes(), &row)?;
    if tx.count(VERDICTS, &[])? > REMEMBERED_BLOCKS
        && let Some((oldest, _)) = tx.scan(VERDICTS, &[], &[], 1)?.first()
    {
        tx.erase(VERDICTS, oldest)?;
    }
    Ok(())
}

/// How many blocks are remembered; a node offers again what it made within minutes.
const REMEMBERED_BLOCKS: u64 = 256;

/// A key that waits in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    pub(crate) slot: Slot,
    pub(crate) id: KeyId,
    pub(crate) provenance: Provenance,
}

impl Stock {
    pub(crate) fn write(&self, tx: &mut dyn Tx, table: Table) -> Result<(), EngineError> {
        let row = self.provenance.put(Writer::new().raw(self.id.as_bytes())).finish();
        tx.write(table, &self.slot.bytes(), &row)
    }

    /// Erases the key with its bits and its name.
    pub(crate) fn erase(&self, tx: &mut dyn Tx, table: Table) -> Result<(), EngineError> {
        let slot = self.slot.bytes();
        tx.erase(table, &slot)?;
        tx.erase(KEY_BYTES, &slot)?;
        tx.erase(IDS, &self.id.low64().to_be_bytes())
    }

    pub(crate) fn read(tx: &dyn Tx, table: Table, slot: Slot) -> Result<Option<Self>, EngineError> {
        let key = slot.bytes();
        let row = tx.read(table, &key)?;
        row.map(|row| Self::parse(table, &key, row.expose())).transpose()
    }

    /// Reads up to `limit` keys whose slots start with `prefix` and lie above `after`.
    pub(crate) fn page(
        tx: &dyn Tx,
        table: Table,
        prefix: &[u8],
        after: Option<Slot>,
        limit: usize,
    ) -> Result<Vec<Self>, EngineError> {
        let after = after.map_or_else(Vec::new, Slot::bytes);
        let rows = tx.scan(table, prefix, &after, limit)?;
        rows.iter().map(|(key, row)| Self::parse(table, key, row.expose())).collect()
    }

    fn parse(table: Table, key: &[u8], row: &[u8]) -> Result<Self, EngineError> {
        let parse = || -> Result<Self, DecodeError> {
            let (mut key, mut row) = (Reader::new(key), Reader::new(row));
            let stock = Self {
                slot: Slot::read(&mut key)?,
                id: row.key_id()?,
                provenance: Provenance::read(&mut row)?,
            };
            key.finish().and_then(|()| row.finish()).map(|()| stock)
        };
        parse().or(Err(EngineError::Damaged(table.name)))
    }
}

/// What a key id leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The key waits in a slot, available or pending.
    Slot(Slot),
    /// The key was handed out and is held for slaves of this site.
    Held,
}

/// Returns the key that IDQ3P calls `low64`, and where it is.
pub(crate) fn find_low64(tx: &dyn Tx, low64: u64) -> Result<Option<(KeyId, Place)>, EngineError> {
    let Some(row) = tx.read(IDS, &low64.to_be_bytes())? else { return Ok(None) };
    let parse = |mut reader: Reader<'_>| -> Result<(KeyId, Place), DecodeError> {
        let id = reader.key_id()?;
        let place = match reader.u8()? {
            0 => Place::Held,
            1 => Place::Slot(Slot::read(&mut reader)?),
            _ => return Err(DecodeError::Field("place")),
        };
        reader.finish().map(|()| (id, place))
    };
    parse(Reader::new(row.expose())).map(Some).or(Err(EngineError::Damaged(IDS.name)))
}

/// Returns where the key called `id` is.
pub(crate) fn find(tx: &dyn Tx, id: KeyId) -> Result<Option<Place>, EngineError> {
    let found = find_low64(tx, id.low64())?;
    Ok(found.filter(|(known, _)| *known == id).map(|(_, place)| place))
}

pub(crate) fn write_place(tx: &mut dyn Tx, id: KeyId, place: Place) -> Result<(), EngineError> {
    let row = Writer::new().raw(id.as_bytes());
    let row = match place {
        Place::Held => row.u8(0).finish(),
        Place::Slot(slot) => row.u8(1).raw(&slot.bytes()).finish(),
    };
    tx.write(IDS, &id.low64().to_be_bytes(), &row)
}

/// A handed-out key for slaves of this site.
///
/// The row outlives the bits until it expires, so that a slave who comes twice hears that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) master: SaeId,
    /// Slaves that have not come yet.
    pub(crate) waiting: Vec<SaeId>,
    /// Slaves that have taken their copy.
    pub(crate) served: Vec<SaeId>,
    pub(crate) provenance: Provenance,
    pub(crate) expires: Timestamp,
}

impl Held {
    pub(crate) fn write(&self, tx: &mut dyn Tx, id: KeyId) -> Result<(), EngineError> {
        let put = |writer: Writer, sae: &SaeId| writer.bytes(sae.as_str().as_bytes());
        let put_all =
            |writer: Writer, saes: &[SaeId]| saes.iter().fold(writer.count(saes.len()), put);
        let row = put_all(put_all(put(Writer::new(), &self.master), &self.waiting), &self.served);
        let row = self.provenance.put(row).u64(self.expires.as_micros()).finish();
        tx.write(HELD, id.as_bytes(), &row)
    }

    pub(crate) fn read(tx: &dyn Tx, id: KeyId) -> Result<Option<Self>, EngineError> {
        let Some(row) = tx.read(HELD, id.as_bytes())? else { return Ok(None) };
        let parse = |mut r: Reader<'_>| -> Result<Self, DecodeError> {
            let held = Self {
                master: r.sae_id()?,
                waiting: (0..r.count(4)?).map(|_| r.sae_id()).collect::<Result<_, _>>()?,
                served: (0..r.count(4)?).map(|_| r.sae_id()).collect::<Result<_, _>>()?,
                provenance: Provenance::read(&mut r)?,
                expires: r.timestamp()?,
            };
            r.finish().map(|()| held)
        };
        parse(Reader::new(row.expose())).map(Some).or(Err(EngineError::Damaged(HELD.name)))
    }

    /// Returns the row key under which the expiry is noted.
    pub(crate) fn expiry_row(&self, id: KeyId) -> Vec<u8> {
        Writer::new().u64(self.expires.as_micros()).raw(id.as_bytes()).finish()
    }
}

/// Reads when a held key expires, and which.
pub(crate) fn read_expiry(row: &[u8]) -> Result<(Timestamp, KeyId), EngineError> {
    let mut reader = Reader::new(row);
    let parsed = reader.timestamp().and_then(|at| reader.key_id().map(|id| (at, id)));
    parsed.or(Err(EngineError::Damaged(EXPIRY.name)))
}

/// Returns how many keys of this master the slave has not taken yet.
pub(crate) fn untaken(tx: &dyn Tx, master: &SaeId, slave: &SaeId) -> Result<u64, EngineError> {
    let Some(row) = tx.read(PAIRS, &pair_row(master, slave))? else { return Ok(0) };
    let count = row.expose().try_into().map(u64::from_be_bytes);
    count.or(Err(EngineError::Damaged(PAIRS.name)))
}

/// Writes how many keys of this master the slave has not taken yet.
pub(crate) fn write_untaken(
    tx: &mut dyn Tx,
    master: &SaeId,
    slave: &SaeId,
    n_keys: u64,
) -> Result<(), EngineError> {
    let row = pair_row(master, slave);
    if n_keys == 0 { tx.erase(PAIRS, &row) } else { tx.write(PAIRS, &row, &n_keys.to_be_bytes()) }
}

fn pair_row(master: &SaeId, slave: &SaeId) -> Vec<u8> {
    Writer::new().bytes(master.as_str().as_bytes()).raw(slave.as_str().as_bytes()).finish()
}

/// Reads a limit or another position from [`META`].
pub(crate) fn read_position(tx: &dyn Tx, name: &[u8]) -> Result<Option<Position>, EngineError> {
    let Some(row) = tx.read(META, name)? else { return Ok(None) };
    let mut reader = Reader::new(row.expose());
    let position = Position::read(&mut reader).and_then(|p| reader.finish().map(|()| p));
    position.map(Some).or(Err(EngineError::Damaged(META.name)))
}

/// Writes a limit or another position into [`META`].
pub(crate) fn write_position(
    tx: &mut dyn Tx,
    name: &[u8],
    position: Option<Position>,
) -> Result<(), EngineError> {
    match position {
        Some(position) => tx.write(META, name, &position.put(Writer::new()).finish()),
        None => tx.erase(META, name),
    }
}
