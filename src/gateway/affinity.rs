//! ComfyUI's queue, history and WebSockets live in one process, so some requests have one right instance:
//! a job's results are where the job was queued, and a client's jobs belong where its WebSocket is.
//!
//! What is remembered is a digest of each id and the instance: 100,000 jobs take a few MiB.
use crate::gateway::key::{Key, key};
use crate::gateway::newest::Newest;
use crate::gateway::tunnel::Tunnel;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use tokio::sync::mpsc::UnboundedSender;

/// How many jobs, and how many clients, are remembered.
const PROMPTS: usize = 100_000;
const CLIENTS: usize = 20_000;

/// A longer answer to POST /prompt is not searched for the job's id.
pub const ANSWER: usize = 64 * 1024;
/// The longest bodies that are searched for an id before they go on: of POST /prompt, and of others.
pub const PROMPT_BODY: u64 = 1 << 20;
pub const SMALL_BODY: u64 = 64 * 1024;

#[derive(Clone)]
struct Socket {
    instance: u32,
    tunnel: Weak<Tunnel>,
}

struct Memory {
    /// Names of instances, once each.
    names: Vec<Arc<str>>,
    prompts: Newest<u32>,
    clients: Newest<Socket>,
    /// Where another process is told what is learned.
    listener: Option<UnboundedSender<Learned>>,
}

/// Which instance an id belongs to: of a job (`prompt`) or of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    pub prompt: bool,
    pub key: Key,
    pub instance: Arc<str>,
}

pub struct Affinity {
    memory: Mutex<Memory>,
}

impl Default for Affinity {
    fn default() -> Self {
        let memory = Memory {
            names: Vec::new(),
            prompts: Newest::new(PROMPTS),
            clients: Newest::new(CLIENTS),
            listener: None,
        };
        Affinity { memory: Mutex::new(memory) }
    }
}

impl Affinity {
    fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.memory.lock())
    }

    pub fn learn(&self, learned: &Learned) {
        self.with(|memory| memory.learn(learned, Weak::new()));
    }

    pub fn learn_prompt(&self, id: &str, instance: &str) {
        let learned = Learned { prompt: true, key: key(id), instance: instance.into() };
        self.with(|memory| memory.learn(&learned, Weak::new()));
    }

    /// A client's newest WebSocket.
    pub fn learn_socket(&self, client: Key, tunnel: &Arc<Tunnel>) {
        let learned = Learned { prompt: false, key: client, instance: tunnel.instance.id().into() };
        self.with(|memory| memory.learn(&learned, Arc::downgrade(tunnel)));
    }

    /// The tunnel of a client on an instance.
    pub fn socket(&self, client: Key, instance: &str) -> Option<Arc<Tunnel>> {
        self.with(|memory| memory.socket(client, instance))
    }

    pub fn prompt(&self, id: &str) -> Option<Arc<str>> {
        let key = key(id);
        self.with(|memory| memory.prompts.map.get(&key).map(|at| memory.names[*at as usize].clone()))
    }

    pub fn client(&self, key: Key) -> Option<Arc<str>> {
        self.with(|memory| memory.clients.map.get(&key).map(|s| memory.names[s.instance as usize].clone()))
    }

    /// All of it, oldest first; what is learned from now on goes to `listener`.
    pub fn hand_over(&self, listener: UnboundedSender<Learned>) -> Vec<Learned> {
        self.with(|memory| {
            memory.listener = Some(listener);
            let name = |at: u32| memory.names[at as usize].clone();
            let prompts = memory.prompts.order.iter().filter_map(|key| {
                let at = memory.prompts.map.get(key)?;
                Some(Learned { prompt: true, key: *key, instance: name(*at) })
            });
            let clients = memory.clients.order.iter().filter_map(|key| {
                let socket = memory.clients.map.get(key)?;
                Some(Learned { prompt: false, key: *key, instance: name(socket.instance) })
            });
            prompts.chain(clients).collect()
        })
    }

    /// Nobody listens any more.
    pub fn keep_to_itself(&self) {
        self.with(|memory| memory.listener = None);
    }
}

impl Memory {
    fn learn(&mut self, learned: &Learned, tunnel: Weak<Tunnel>) {
        let at = self.names.iter().rposition(|name| *name == learned.instance).unwrap_or_else(|| {
            self.names.push(learned.instance.clone());
            self.names.len() - 1
        }) as u32;
        if learned.prompt {
            self.prompts.put(learned.key, at);
        } else {
            self.clients.put(learned.key, Socket { instance: at, tunnel });
        }
        if let Some(listener) = &self.listener {
            // The other process may have ended; then nobody needs it.
            let _ = listener.send(learned.clone());
        }
    }

    fn socket(&self, client: Key, instance: &str) -> Option<Arc<Tunnel>> {
        let socket = self.clients.map.get(&client)?;
        if &*self.names[socket.instance as usize] != instance {
            return None;
        }
        socket.tunnel.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_jobs_are_remembered() {
        let affinity = Affinity::default();
        for job in 0..=PROMPTS {
            affinity.learn_prompt(&job.to_string(), if job % 2 == 0 { "s0-g1" } else { "s1-g1" });
        }
        assert_eq!(affinity.prompt("0"), None);
        assert_eq!(affinity.prompt("1").as_deref(), Some("s1-g1"));
        assert_eq!(affinity.prompt(&PROMPTS.to_string()).as_deref(), Some("s0-g1"));
    }

    #[test]
    fn what_is_known_is_handed_over_and_what_comes_after_follows() {
        let affinity = Affinity::default();
        affinity.learn_prompt("a", "s0-g1");
        affinity.learn(&Learned { prompt: false, key: key("c"), instance: "s1-g1".into() });
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let all = affinity.hand_over(tell);
        affinity.learn_prompt("b", "s1-g1");
        let next = Affinity::default();
        all.iter().for_each(|learned| next.learn(learned));
        next.learn(&told.try_recv().unwrap());
        assert_eq!(next.prompt("a").as_deref(), Some("s0-g1"));
        assert_eq!(next.prompt("b").as_deref(), Some("s1-g1"));
        assert_eq!(next.client(key("c")).as_deref(), Some("s1-g1"));
        assert!(next.socket(key("c"), "s1-g1").is_none());
    }
}
