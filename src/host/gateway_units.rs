//! The gateway's units and settings, and words with it over its control socket.
use crate::host::layout::Service;
use crate::host::listeners;
use crate::host::scaler_units;
use crate::host::scaling_order;
use crate::host::secrets;
use crate::host::socket;
use crate::host::state::Generation;
use crate::host::units;
use crate::protocol::control::{GATEWAY_VERSION, GatewaySettings, JobsAsk, JobsSettings, Reply, Request};
use crate::protocol::jobs::Jobs;
use crate::protocol::spec::{Check, Spec, Wanted};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::process;
use crate::sys::systemd;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// One that computes keys and tables only: longer than this it is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Ten gigabytes from a slow disk to itself.
const BACKUP_LIMIT: Duration = Duration::from_secs(1800);
/// A gateway that was just started, or hands over, has no socket for a moment.
const APPEAR_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Gateway {
    service: Service,
}

impl Gateway {
    pub fn new(service: &Service) -> Gateway {
        Gateway { service: service.clone() }
    }

    fn settings(&self, spec: &Spec, jobs: Option<Jobs>) -> GatewaySettings {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        GatewaySettings {
            version: GATEWAY_VERSION,
            service: spec.service.clone(),
            listen: SocketAddr::new(spec.listen, spec.port),
            metrics: spec.metrics_port.map(loopback),
            control: self.service.control(),
            table: self.service.gateway_folder().join("table.json"),
            api_keys: spec.api_keys.clone(),
            callers: spec.callers.clone(),
            limits: spec.gateway.clone(),
            check: Check { path: spec.health.path.clone(), ..Check::default() },
            jobs: jobs.map(|rules| JobsSettings { file: self.service.jobs(), rules }),
            scaling: scaling_order::settings(&self.service, spec),
        }
    }

    /// The settings that the gateway was given last, since the host was started.
    fn given(&self) -> Option<GatewaySettings> {
        serde_json::from_slice(&std::fs::read(self.service.gateway_settings()).ok()?).ok()
    }

    /// How the gateway is to own the jobs. While it has any it goes on so, also where a generation serves that does not
    /// ask for that any more: they were accepted.
    fn jobs(&self, spec: &Spec) -> Option<Jobs> {
        if spec.jobs.is_some() {
            return spec.jobs.clone();
        }
        let rules = self.given()?.jobs?.rules;
        let reply = self.ask(&Request::Status).ok()?;
        let open = reply.waiting_jobs.unwrap_or(0) + reply.targets.iter().map(|t| t.jobs).sum::<u64>();
        (open > 0).then_some(rules)
    }

    /// The gateway runs the newest agent of the host, whichever generation serves: an older one may not know what this
    /// one tells it.
    fn agent(&self, wanted: &Wanted) -> String {
        let newest = std::fs::read_link(self.service.layout.agent());
        newest.map_or_else(|_| wanted.agent.clone(), |path| path.display().to_string())
    }

    fn put_settings(&self, spec: &Spec, jobs: Option<Jobs>) -> Result<()> {
        let settings = serde_json::to_vec_pretty(&self.settings(spec, jobs))
            .map_err(|e| Error::new(Kind::Io, "cannot write the gateway's settings").caused_by(e))?;
        files::write_private_if_changed(&self.service.gateway_settings(), &settings)?;
        if systemd::is_active(&self.service.gateway_unit("service"))? {
            socket::admit_to_settings(&self.service)?;
        }
        Ok(())
    }

    /// The settings alone.
    pub fn write_settings(&self, generation: &Generation) -> Result<()> {
        let spec = &generation.wanted.spec;
        self.put_settings(spec, self.jobs(spec))
    }

    /// Writes units and settings; says whether systemd must read its units again.
    pub fn write(&self, generation: &Generation) -> Result<bool> {
        let wanted = &generation.wanted;
        let spec = &wanted.spec;
        let jobs = self.jobs(spec);
        let owns_jobs = jobs.is_some();
        self.put_settings(spec, jobs)?;
        let units = &self.service.layout.units;
        let socket = units::gateway_socket(&self.service, spec);
        let socket_file = units.join(self.service.gateway_unit("socket"));
        let socket_changed = files::write_if_changed(&socket_file, socket.as_bytes())?;
        let folder = self.service.secrets(generation.attempt);
        let named = secrets::of_gateway(spec).into_iter().map(|name| (name, folder.join(name)));
        // Without its file the unit would not start, and nothing would be served.
        let credentials: Vec<_> = named.filter(|(_, file)| file.exists()).collect();
        let text = units::gateway_service(&self.service, &self.agent(wanted), owns_jobs, &credentials);
        let service_changed =
            files::write_if_changed(&units.join(self.service.gateway_unit("service")), text.as_bytes())?;
        let scaler_changed = scaler_units::write(&self.service, spec, &self.agent(wanted))?;
        Ok(socket_changed || service_changed || scaler_changed)
    }

    /// Makes it run as `write` wrote it. One that runs is not restarted: that would cut its WebSockets. Only who owns the
    /// jobs, it or the instances, cannot change while it runs.
    pub fn run(&self, generation: &Generation) -> Result<()> {
        let wanted = &generation.wanted;
        scaler_units::run(&self.service, &wanted.spec)?;
        let (socket, service) = (self.service.gateway_unit("socket"), self.service.gateway_unit("service"));
        let shown = systemd::show_all(&[&socket, &service], &["ActiveState"])?;
        let active = |at: usize| {
            shown.get(at).and_then(|u| u.get("ActiveState")).is_some_and(|state| state == "active")
        };
        let public = SocketAddr::new(wanted.spec.listen, wanted.spec.port);
        if !active(0) || !listeners::any_at(public) {
            // A socket unit takes a new address only when it is made anew. What is listened on now decides, not what this
            // process changed, since an earlier one may have been killed in between; nor what systemd shows, which is the
            // address in the file.
            systemd::stop(&service)?;
            systemd::stop(&socket)?;
            free(public)?;
            systemd::start_and_wait(&socket)?;
            systemd::start_and_wait(&service)?;
        } else if !active(1) {
            systemd::start_and_wait(&service)?;
        } else {
            let owns_jobs = self.given().is_some_and(|given| given.jobs.is_some());
            if owns_jobs && !self.has_state()? {
                return self.restart();
            }
            // An older program knows neither these settings nor a table with sockets.
            self.upgrade(wanted)?;
            self.pass_secrets(generation)?;
            self.ask(&Request::Reload)?;
            if self.ask(&Request::Status)?.waiting_jobs.is_some() != owns_jobs {
                self.restart()?;
            }
        }
        Ok(())
    }

    /// A process that runs has the credentials of its start. Jobs that an earlier generation left go on with theirs.
    fn pass_secrets(&self, generation: &Generation) -> Result<()> {
        let spec = &generation.wanted.spec;
        if spec.jobs.is_none() {
            return Ok(());
        }
        let folder = self.service.secrets(generation.attempt);
        let secrets = secrets::read(&folder, &secrets::of_gateway(spec))?;
        self.ask(&Request::Secrets { secrets }).map(drop)
    }

    /// The socket stays, and connections wait there.
    fn restart(&self) -> Result<()> {
        let service = self.service.gateway_unit("service");
        systemd::stop(&service)?;
        systemd::start_and_wait(&service)
    }

    fn main_process(&self) -> Result<String> {
        let mut shown = systemd::show(&self.service.gateway_unit("service"), &["MainPID"])?;
        Ok(shown.remove("MainPID").unwrap_or_else(|| "0".into()))
    }

    /// Whether the process that runs was started with a folder for jobs: its successors see what it sees.
    fn has_state(&self) -> Result<bool> {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.main_process()?));
        // One that has just ended is started again, and then has it.
        Ok(mounts.map_or(true, |mounts| is_mounted(&mounts, &self.service.gateway_state_private())))
    }

    /// Another version of the program takes the socket over; connections stay with the old until they end.
    fn upgrade(&self, wanted: &Wanted) -> Result<()> {
        let program = units::program(&self.agent(wanted));
        let pid = self.main_process()?;
        let runs = std::fs::read_link(format!("/proc/{pid}/exe"));
        if runs.is_ok_and(|runs| runs == Path::new(&program)) {
            return Ok(());
        }
        self.ask(&Request::Upgrade { program, limit_ms: wanted.spec.drain_ms }).map(drop)
    }

    pub fn remove(&self) -> Result<()> {
        let (socket, service) = (self.service.gateway_unit("socket"), self.service.gateway_unit("service"));
        systemd::stop(&service)?;
        systemd::stop(&socket)?;
        scaler_units::remove(&self.service)?;
        if self.service.gateway_folder().exists() {
            process::must(&["systemctl", "clean", "--what=runtime", &service], ANSWER_LIMIT)?;
        }
        files::remove(&self.service.layout.units.join(socket))?;
        files::remove(&self.service.layout.units.join(service))?;
        files::remove(&self.service.gateway_settings())
    }

    /// One question, one answer.
    pub fn ask(&self, request: &Request) -> Result<Reply> {
        let path = self.service.control();
        let failed = |e: std::io::Error| {
            Error::io("ask the gateway at", &path, e)
                .hint(format!("is it running? systemctl status {}", self.service.gateway_unit("service")))
        };
        let started = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(e) if started.elapsed() > APPEAR_LIMIT || !self.starting() => return Err(failed(e)),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let limit = match request {
            // The other version starts first.
            Request::Upgrade { .. } => ANSWER_LIMIT * 6,
            Request::Jobs { ask: JobsAsk::Backup { .. } } => BACKUP_LIMIT,
            // All of ten thousand may be meant.
            Request::Jobs { .. } => ANSWER_LIMIT * 6,
            // Jobs that are cut are on disk before that is answered.
            Request::Cut { .. } => ANSWER_LIMIT * 3,
            _ => ANSWER_LIMIT,
        };
        stream.set_read_timeout(Some(limit)).map_err(failed)?;
        let mut line = serde_json::to_vec(request)
            .map_err(|e| Error::new(Kind::Io, "cannot ask the gateway").caused_by(e))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(failed)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).map_err(failed)?;
        let reply: Reply = serde_json::from_str(&answer).map_err(|e| failed(e.into()))?;
        match reply.error {
            Some(error) => {
                Err(Error::new(Kind::Host, format!("the gateway of {}: {error}", self.service.name)))
            }
            None => Ok(reply),
        }
    }

    fn starting(&self) -> bool {
        self.service.layout.units.join(self.service.gateway_unit("service")).exists()
    }
}

/// Whether the gateway can listen on the ports that `wanted` has and `serving` has not.
pub fn ports_are_free(wanted: &Spec, serving: &Spec) -> Result<()> {
    if wanted.port != serving.port {
        free(SocketAddr::new(wanted.listen, wanted.port))?;
    }
    match wanted.metrics_port {
        Some(port) if serving.metrics_port != Some(port) => {
            free(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        }
        _ => Ok(()),
    }
}

/// Whether a folder is a mount of its own (proc(5), mountinfo: the fifth field).
fn is_mounted(mounts: &str, folder: &Path) -> bool {
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|at| Path::new(at) == folder)
}

/// Whether an address can be listened on now; systemd's own words for that say less.
fn free(address: SocketAddr) -> Result<()> {
    TcpListener::bind(address).map(drop).map_err(|e| {
        let error = Error::new(Kind::Host, format!("cannot listen on {address}"));
        let error = error.hint(format!(
            "see who has it: ss -ltnp 'sport = :{}'; or give the service another port",
            address.port()
        ));
        error.caused_by(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_its_own_is_a_mount() {
        let mounts = "36 35 98:0 / / ro,noatime shared:1 - ext4 /dev/vda1 ro\n\
                      37 36 0:40 / /var/lib/private rw - tmpfs tmpfs rw\n\
                      38 37 98:0 /var/lib/private/stillframe-gateway/demo \
                      /var/lib/private/stillframe-gateway/demo rw,nosuid - ext4 /dev/vda1 rw\n";
        let mounted =
            |name: &str| is_mounted(mounts, &Path::new("/var/lib/private/stillframe-gateway").join(name));
        assert_eq!((mounted("demo"), mounted("demo-two"), mounted("dem")), (true, false, false));
    }
}
