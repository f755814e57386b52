//! The gateway: one process a service, between its public port and the instances of the host.
//!
//! ```text
//! client ─▶ server ─▶ proxy ─▶ forward ─▶ link ─▶ instance
//!             │         │         ├─ preference, router (which instance), waiting (none is ready)
//!             │         │         ├─ answer (its way back)
//!             │         │         └─ opening ─▶ tunnel, pump (WebSockets)
//!             │         ├─ door (origin, forwarded, auth, ticket, throttle), pages, refusal
//!             │         └─ access ─▶ access_log, metrics
//!             ├─ seating (who has a place)
//!             └─ client, client_socket ◀─ deadlines (limits of time)
//!
//! agent ─▶ control_socket ─▶ orders ─▶ router.set, status, cut, reload
//!                └─ upgrade ◀─ handover ─▶ successor, predecessor (the next process, the one before)
//! health ─▶ instance.well, failed_check
//!
//! scaling ◀─ jobs, waiting, router; scaling ─▶ the root program of the host ─▶ control_socket
//!
//! client ─▶ hub_accept ─▶ hub (WebSockets that end here) ◀─ what runs jobs ◀─ upstream ◀─ instance
//! ```
//!
//! One thread does all of it, but for what is sent to others (`deliveries`): a request costs about 25 us, so a core carries
//! far more than GPUs can produce, and nothing is handed from thread to thread. Three rules keep a deploy from losing a request:
//!
//! 1. `router`: a request claims its instance under the read lock, `set` swaps under the write lock. After
//!    `set` nothing new goes to an old instance, and what is on its way is counted.
//! 2. `forward`: what may have reached an instance is not sent again, what cannot have is tried elsewhere or
//!    waits (`waiting`).
//! 3. `upgrade`, `server::leave`: a new version of this program takes the listening socket over before the
//!    old one stops, and what the old one still has is asked of it by the new one.
//!
//! Whatever there is only so much of is counted by who has it (`share`), and what is remembered of clients is
//! bounded: nobody can keep the others out, or fill this process's memory.
//!
//! No file imports one that imports it. `shared` has the struct `Gateway` that every part works on: below it
//! lies what it consists of (settings, router, affinity, tunnels, metrics, ...), above it what acts on it.
pub mod access;
pub mod access_log;
pub mod affinity;
pub mod answer;
pub mod auth;
pub mod body;
pub mod client;
pub mod client_socket;
pub mod clock;
pub mod control_socket;
pub mod credentials;
pub mod deadlines;
pub mod deliveries;
pub mod door;
pub mod faults;
pub mod forward;
pub mod forwarded;
pub mod handover;
pub mod headers;
pub mod health;
pub mod hub;
pub mod hub_accept;
pub mod hub_client;
pub mod hub_frame;
pub mod hub_given;
pub mod hub_live;
pub mod hub_queue;
pub mod hub_socket;
pub mod instance;
pub mod jobs;
pub mod keepalive;
pub mod key;
pub mod link;
pub mod metrics;
pub mod metrics_page;
pub mod metrics_port;
pub mod newest;
pub mod notify;
pub mod opening;
pub mod orders;
pub mod origin;
pub mod pages;
pub mod predecessor;
pub mod preference;
pub mod process;
pub mod proxy;
pub mod pump;
pub mod refusal;
pub mod router;
pub mod scaling;
pub mod seating;
pub mod server;
pub mod settings;
pub mod share;
pub mod shared;
pub mod subprotocol;
pub mod successor;
pub mod target;
pub mod throttle;
pub mod ticket;
pub mod tunnel;
pub mod upgrade;
pub mod upstream;
pub mod waiting;
