//! One client's WebSocket: what the hub has of it (`Socket`), and what its own task has (`Wire`).
use crate::formats::comfy::socket::Worth;
use crate::gateway::clock::{self, Millis};
use crate::gateway::hub_frame::{Close, Decoder, Frame, Incoming};
use crate::gateway::hub_queue::{self, Outgoing, SLICES};
use crate::gateway::key::Key;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a client may take to read why it is closed, and to close its own side.
const CLOSING: Duration = Duration::from_secs(5);
/// How often one socket is read before the others have their turn.
const READS: usize = 16;
/// All sockets together may have this much waiting; beyond it each may have only `LESS`.
const ALL: usize = 64 << 20;
const LESS: usize = 256 << 10;
/// Proxies between a client and us end what is silent for a minute.
const QUIET: Millis = 30_000;

/// More than this is not handed to another process.
const HANDED: usize = 1 << 20;

pub const SLOW: Close = Close::new(1013, "the client reads too slowly");

thread_local! {
    /// What is read passes through here; a socket keeps only the beginning of a frame.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// A client as the hub knows it. The same id with another API key is another client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientRef {
    pub scope: Option<Key>,
    pub id: Arc<str>,
}

impl ClientRef {
    pub fn new(scope: Option<Key>, id: &str) -> ClientRef {
        ClientRef { scope, id: id.into() }
    }
}

pub struct Socket {
    pub client: ClientRef,
    state: Mutex<State>,
    /// When something last moved, for pings.
    since: AtomicU64,
    /// What waits for all sockets together.
    load: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    outgoing: Outgoing,
    /// It knows previews with metadata.
    metadata: bool,
    /// The last frame is in the queue.
    closing: bool,
    /// Another process is to go on with it.
    leaves: bool,
    waker: Option<Waker>,
}

impl Socket {
    pub fn new(client: ClientRef, load: &Arc<AtomicUsize>) -> Socket {
        Socket { client, state: Mutex::default(), since: AtomicU64::new(clock::now()), load: load.clone() }
    }

    /// Changes its state, and counts what waits.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = state.outgoing.bytes();
        let done = act(&mut state);
        let after = state.outgoing.bytes();
        if after > before {
            self.load.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.load.fetch_sub(before - after, Ordering::Relaxed);
        }
        done
    }

    pub fn push(&self, frame: Frame) {
        let most = if self.load.load(Ordering::Relaxed) > ALL { LESS } else { hub_queue::BYTES };
        self.change(|state| {
            if state.closing {
                return;
            }
            if state.outgoing.push(frame, most).is_err() {
                state.closing = true;
                state.outgoing.end_with(Frame::close(&SLOW));
            }
            state.wake();
        });
    }

    /// What waits goes out before it ends.
    pub fn close(&self, close: &Close) {
        self.change(|state| {
            if !state.closing {
                state.closing = true;
                state.outgoing.push_last(Frame::close(close));
            }
            state.wake();
        });
    }

    /// Asks its task to give it up, so that another process can go on with it; or no longer does.
    pub fn ask_to_leave(&self, leaves: bool) {
        self.change(|state| {
            state.leaves = leaves;
            state.wake();
        });
    }

    /// Goes on with what another process did not write any more.
    pub fn go_on_with(&self, metadata: bool, waits: Vec<u8>) {
        self.change(|state| {
            state.metadata = metadata;
            state.put_back(waits);
        });
    }

    /// What was given up, and not taken.
    pub fn come_back(&self, waits: Vec<u8>) {
        self.change(|state| {
            (state.closing, state.leaves) = (false, false);
            state.put_back(waits);
        });
    }

    pub fn knows_metadata(&self) -> bool {
        self.state.lock().metadata
    }

    pub fn set_metadata(&self, metadata: bool) {
        self.state.lock().metadata = metadata;
    }

    /// A ping, if it has been silent for long.
    pub fn ping(&self, now: Millis) {
        if now < self.since.load(Ordering::Relaxed) + QUIET {
            return;
        }
        self.since.store(now, Ordering::Relaxed);
        self.change(|state| {
            // What waits says as much; and one that reads nothing gets no more than one.
            if !state.closing && state.outgoing.is_empty() {
                state.outgoing.push_last(Frame::ping());
                state.wake();
            }
        });
    }

    fn moved(&self) {
        self.since.store(clock::now(), Ordering::Relaxed);
    }

    fn register(&self, cx: &Context<'_>) {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
    }
}

impl State {
    /// What is to be written before anything else.
    fn put_back(&mut self, waits: Vec<u8>) {
        if !waits.is_empty() {
            self.outgoing.push_last(Frame { bytes: waits.into(), worth: Worth::Must });
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.load.fetch_sub(self.state.lock().outgoing.bytes(), Ordering::Relaxed);
    }
}

/// What a socket's task has to do something about.
#[derive(Debug, PartialEq, Eq)]
pub enum Happened {
    /// A text message, of those that are listened to.
    Said(Vec<u8>),
    /// Another process is to go on with it: see `give_up`.
    Leaves,
    Over,
}

pub struct Wire {
    stream: TcpStream,
    pub decoder: Decoder,
    /// The client has said its last.
    left: bool,
    /// What it sends is no WebSocket; it is read all the same, or the kernel's reset would overtake our last word.
    deaf: bool,
    /// Once the last frame is in the queue.
    timer: Option<Pin<Box<Sleep>>>,
    pub received: u64,
    pub sent: u64,
}

impl Wire {
    /// `early`: what came behind the request.
    pub fn new(stream: TcpStream, mut decoder: Decoder, early: &[u8]) -> Wire {
        decoder.feed(early);
        Wire { stream, decoder, left: false, deaf: false, timer: None, received: 0, sent: 0 }
    }

    /// The connection, its client's side, and what waits for it.
    pub fn give_up(self, socket: &Socket) -> (TcpStream, Decoder, Vec<u8>) {
        let waits = socket.change(|state| {
            state.closing = true;
            state.outgoing.take()
        });
        (self.stream, self.decoder, waits)
    }

    pub fn poll(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<Happened> {
        socket.register(cx);
        match self.read(cx, socket) {
            Ok(None) => {}
            Ok(Some(text)) => return Poll::Ready(Happened::Said(text)),
            // It left, with or without a word.
            Err(_) => return Poll::Ready(Happened::Over),
        }
        let Ok((all, closing, leaves)) = self.write(cx, socket) else { return Poll::Ready(Happened::Over) };
        if leaves && !closing {
            return Poll::Ready(Happened::Leaves);
        }
        if !closing {
            return Poll::Pending;
        }
        if all && self.left {
            return Poll::Ready(Happened::Over);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSING)));
        timer.as_mut().poll(cx).map(|()| Happened::Over)
    }

    /// Reads what there is; an error is the end of the connection.
    fn read(&mut self, cx: &mut Context<'_>, socket: &Socket) -> io::Result<Option<Vec<u8>>> {
        for _ in 0..READS {
            if let Some(text) = self.hear(socket) {
                return Ok(Some(text));
            }
            if self.stream.poll_read_ready(cx)?.is_pending() {
                return Ok(None);
            }
            let (stream, decoder, deaf) = (&self.stream, &mut self.decoder, self.deaf || self.left);
            let read: io::Result<usize> = SCRATCH.with_borrow_mut(|scratch| {
                let read = stream.try_read(scratch)?;
                if !deaf {
                    decoder.feed(&scratch[..read]);
                }
                Ok(read)
            });
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.received += read as u64;
                    socket.moved();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        cx.waker().wake_by_ref();
        Ok(None)
    }

    /// Looks at what was read.
    fn hear(&mut self, socket: &Socket) -> Option<Vec<u8>> {
        while !self.deaf && !self.left {
            match self.decoder.hear() {
                Ok(None) => return None,
                Ok(Some(Incoming::Text(text))) => return Some(text),
                Ok(Some(Incoming::Ping(payload))) => socket.push(Frame::pong(&payload)),
                Ok(Some(Incoming::Close(code))) => {
                    self.left = true;
                    socket.close(&Close { code, reason: "" });
                }
                Err(why) => {
                    self.deaf = true;
                    socket.close(&why);
                }
            }
        }
        None
    }

    /// Writes what the client takes. Says whether that was all, whether the last frame was among it, and whether
    /// it is to leave now.
    fn write(&mut self, cx: &mut Context<'_>, socket: &Socket) -> io::Result<(bool, bool, bool)> {
        loop {
            let ready = self.stream.poll_write_ready(cx)?.is_ready();
            let (wrote, rest) = socket.change(|state| {
                let leaves = state.leaves && state.outgoing.bytes() <= HANDED;
                let rest = (state.outgoing.is_empty(), state.closing, leaves);
                if rest.0 || !ready {
                    return (Ok(0), Some(rest));
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = state.outgoing.slices(&mut slices);
                let wrote = self.stream.try_write_vectored(&slices[..count]);
                if let Ok(bytes) = &wrote {
                    state.outgoing.wrote(*bytes);
                }
                (wrote, None)
            });
            match wrote {
                Ok(bytes) => self.sent += bytes as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if let Some(rest) = rest {
                return Ok(rest);
            }
            socket.moved();
        }
    }
}
