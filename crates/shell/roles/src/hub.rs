//! What gateway and platform have in common as roles: half of the fleet on its store, the link to
//! the other half, and orders for the KME of their site.

use std::fmt::Debug;
use std::sync::Arc;

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_fleet::{FleetError, Half};
use claviger_net::link::{Link, LinkEvent};
use claviger_store::{StoreError, Writer};
use claviger_units::Timestamp;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{Semaphore, mpsc};

use crate::channel::{Channel, trouble};
use crate::role::{Context, Folder, RoleError};

/// Half of the fleet, as its writer owns it.
pub(crate) struct Core<H> {
    pub(crate) half: H,
    pub(crate) rng: StdRng,
    /// Number of the connection to the other half.
    session: u64,
    /// Where the session over it stood when that was last told.
    told: Session,
}

/// What a core wants carried out, after its transaction is durable.
pub(crate) enum Output<H: Half> {
    Peer {
        session: u64,
        frame: Vec<u8>,
    },
    Order(H::Order),
    Event(H::Event),
    /// Where the session over the connection of this number stands.
    Session {
        number: u64,
        stands: Session,
    },
    Timer(Option<Timestamp>),
}

/// Where a core's outputs arrive.
pub(crate) type Outputs<H> = mpsc::UnboundedReceiver<Output<H>>;

/// Opens the store of a role and makes its core.
pub(crate) fn open<H>(
    folder: &Folder,
    make: impl FnOnce(&mut dyn Tx, &mut StdRng) -> Result<H, EngineError>,
) -> Result<(Writer<Core<H>>, Outputs<H>), RoleError>
where
    H: Half<Order: Send + 'static, Event: Send + 'static> + Send + 'static,
{
    let (sender, outputs) = mpsc::unbounded_channel();
    let writer = folder.writer(
        move |tx| {
            let mut rng =
                StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
            let half = make(tx, &mut rng)?;
            Ok::<_, EngineError>(Core { half, rng, session: 0, told: Session::Apart })
        },
        move |core| drain(core, &sender),
    )?;
    Ok((writer, outputs))
}

fn drain<H: Half>(core: &mut Core<H>, outputs: &mpsc::UnboundedSender<Output<H>>) {
    // The receiver outlives the writer but for the end of the role, when nothing matters any more.
    let give = |output| drop(outputs.send(output));
    while let Some(frame) = core.half.poll_transmit() {
        give(Output::Peer { session: core.session, frame });
    }
    while let Some(order) = core.half.poll_order() {
        give(Output::Order(order));
    }
    while let Some(event) = core.half.poll_event() {
        give(Output::Event(event));
    }
    let session = core.half.session();
    if std::mem::replace(&mut core.told, session) != session {
        give(Output::Session { number: core.session, stands: session });
    }
    give(Output::Timer(core.half.poll_timeout()));
}

/// Who speaks, and with whom.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub(crate) own: &'static str,
    pub(crate) other: &'static str,
}

/// Events of the link that are taken together.
const BATCH: usize = 128;

/// The link of half of the fleet, and the loop that serves it.
pub(crate) struct Hub<H: Half> {
    names: Names,
    writer: Writer<Core<H>>,
    outputs: Outputs<H>,
    context: Context,
    peer: Channel,
    timer: Option<Timestamp>,
    /// So many orders are under way at the KME at once.
    orders: Arc<Semaphore>,
}

impl<H> Hub<H>
where
    H: Half<Order: Send + 'static, Event: Debug + Send + 'static> + Send + 'static,
{
    pub(crate) fn new(
        names: Names,
        (writer, outputs): (Writer<Core<H>>, Outputs<H>),
        link: Link,
        context: Context,
    ) -> Self {
        let (peer, orders) = (Channel::new(link), Arc::new(Semaphore::new(16)));
        Self { names, writer, outputs, context, peer, timer: None, orders }
    }

    /// Serves until the signal to stop; `tell` is given what happens, `fill` every order.
    pub(crate) async fn run<F>(
        mut self,
        tell: impl Fn(H::Event),
        fill: impl Fn(H::Order) -> F,
    ) -> Result<(), RoleError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (clock, shutdown) = (self.context.clock, self.context.shutdown.clone());
        loop {
            let timer = self.timer;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.writer.ended() => return Err(StoreError::Stopped.into()),
                Some(output) = self.outputs.recv() => match output {
                    Output::Peer { session, frame } => self.peer.send_on(session, frame),
                    Output::Timer(timer) => self.timer = timer,
                    Output::Session { number, stands } => self.handle_session(number, stands),
                    Output::Order(order) => self.spawn(fill(order)),
                    Output::Event(event) => {
                        tracing::info!(role = self.names.own, ?event, "fleet");
                        tell(event);
                    }
                },
                event = self.peer.next() => self.handle_peer(event).await?,
                () = clock.sleep_until(timer) => self.handle_timer().await?,
            }
        }
        self.writer.stop().await;
        Ok(())
    }

    /// Takes what the other half has said, with all that has come meanwhile: it becomes durable together.
    async fn handle_peer(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        let now = self.context.clock.now();
        let mut begun = vec![self.begin(now, event)];
        while begun.len() < BATCH
            && let Some(event) = self.peer.try_next()
        {
            begun.push(self.begin(now, event));
        }
        let mut is_broken = false;
        for handled in begun {
            match handled.await? {
                Ok(()) => {}
                Err(FleetError::Store(error)) => return Err(error.into()),
                // It is hung up on already.
                Err(_) if is_broken => {}
                Err(error) => {
                    is_broken = true;
                    self.context.reports.refused(self.names.own, error);
                    self.peer.hang_up();
                }
            }
        }
        Ok(())
    }

    fn begin(
        &self,
        now: Timestamp,
        event: LinkEvent,
    ) -> impl Future<Output = Result<Result<(), FleetError>, StoreError>> + Send + use<H> {
        let session = self.peer.session();
        self.writer.begin(move |core, tx| {
            match event {
                LinkEvent::Connected(_) => {
                    core.session = session;
                    core.half.handle_connected(&mut core.rng);
                }
                LinkEvent::Disconnected => core.half.handle_disconnected(),
                LinkEvent::Frame(frame) => core.half.handle_message(tx, now, &frame)?,
            }
            Ok::<_, FleetError>(())
        })
    }

    async fn handle_timer(&mut self) -> Result<(), RoleError> {
        let now = self.context.clock.now();
        self.timer = None;
        let due = self.writer.run(move |core, tx| core.half.handle_timeout(tx, now, &mut core.rng));
        Ok(due.await??)
    }

    fn handle_session(&self, number: u64, session: Session) {
        // A half that has ended the session while its connection stands begins anew on another one.
        let is_present = number == self.peer.session() && self.peer.is_connected();
        if session == Session::Apart && is_present {
            self.peer.hang_up();
        }
        if let Some(why) = trouble(session, self.names.own, self.names.other) {
            self.context.reports.halted(self.names.own, why);
        }
    }

    fn spawn(&self, filling: impl Future<Output = ()> + Send + 'static) {
        let places = Arc::clone(&self.orders);
        tokio::spawn(async move {
            // An error would mean that the semaphore was closed, which nobody does.
            let place = places.acquire_owned().await;
            filling.await;
            drop(place);
        });
    }
}
