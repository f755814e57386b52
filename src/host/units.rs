//! The texts of the units (systemd.unit(5), systemd.service(5), systemd.exec(5)). Pure.
//!
//! One unit for each generation and slot, not a template: editing a template changes how what runs is
//! stopped. Not used because CUDA does not start with them: PrivateDevices, MemoryDenyWriteExecute,
//! ProcSubset=pid.
use crate::host::layout::Service;
use crate::host::state::Place;
use crate::host::users::Users;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::{Spec, Wanted};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The agent's program of an agent's store path.
pub fn program(agent: &str) -> String {
    format!("{agent}/bin/stillframe-agent")
}

/// What an instance is to do, as the credential of its unit: nobody else reads what its environment holds.
pub const INSTANCE_FILE: &str = "instance.json";

const SANDBOX: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0022
";

/// Nix's own installer leaves its daemon's socket open to all: who reaches it adds paths to the store, and has builds run
/// outside of the unit's limits.
fn no_nix_daemon(service: &Service) -> String {
    format!("InaccessiblePaths=-{}\n", service.layout.nix.join("daemon-socket").display())
}

const GPU_DEVICES: &[&str] = &[
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
    "char-nvidia-caps",
    "char-nvidia-caps-imex-channels",
];

/// Where the tests' own agent is told what is to fail (`sys::fault`).
const FAULTS: &str =
    if cfg!(feature = "fault-points") { "ReadWritePaths=-/opt/stillframe-faults\n" } else { "" };

/// A home folder is not there for an instance, but for what it was told to see.
fn in_a_home(path: &str) -> bool {
    ["/home", "/root", "/run/user"].iter().any(|home| Path::new(path).starts_with(home))
}

/// The folders below /var/lib that an instance's user may write.
pub fn state_folders(service: &Service, id: InstanceId, place: Place) -> String {
    // Where an earlier agent deployed it, its slot is in the data.
    let slot = place.port.map_or_else(|| format!(" {}", service.slot_folder(id)), |_| String::new());
    format!("{}{slot}", service.data_folder())
}

/// `system`: lines of `system_files`.
pub fn instance(
    service: &Service,
    number: u64,
    place: Place,
    wanted: &Wanted,
    attempt: u64,
    users: Users,
    system: &str,
) -> String {
    let spec = &wanted.spec;
    let id = InstanceId { slot: place.slot, generation: number };
    let name = &service.name;
    // One that an earlier agent deployed listens on a port, and that agent knows nothing of sockets.
    let socket = place.port.map_or_else(
        || {
            format!(
                "ExecStartPost=+{} admit {name} {id}\nRuntimeDirectory={}\nRuntimeDirectoryMode=0700\n",
                program(&wanted.agent),
                service.socket_folder(id)
            )
        },
        |_| String::new(),
    );
    let mut text = format!(
        "[Unit]
Description=ComfyUI {name}, slot {}, generation {number}
StartLimitIntervalSec=0
RequiresMountsFor=/nix/store {data}

[Service]
Type=exec
ExecStart={program} instance ${{CREDENTIALS_DIRECTORY}}/{INSTANCE_FILE}
LoadCredential={INSTANCE_FILE}:{file}
{socket}SyslogIdentifier={name}-{id}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=15
LimitNOFILE=65536
StateDirectory={state}
",
        place.slot,
        program = program(&wanted.agent),
        file = service.instance_file(id).display(),
        data = service.layout.data.display(),
        state = state_folders(service, id, place),
    );
    text.push_str(&users.lines(spec, id));
    text.push_str(SANDBOX);
    text.push_str(&no_nix_daemon(service));
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key}={value}");
    };
    line("ProtectHome", "tmpfs");
    line("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK");
    line("DevicePolicy", "closed");
    let gpus = spec.slots.get(place.slot as usize).map_or(&[][..], Vec::as_slice);
    if !gpus.is_empty() {
        // Makes the device nodes of a driver that nothing has used yet; a host without it has made them.
        line("ExecStartPre", "+-/usr/bin/nvidia-modprobe -u -c0");
        for device in GPU_DEVICES {
            line("DeviceAllow", &format!("{device} rw"));
        }
        if gpus.iter().all(|gpu| gpu.bytes().all(|b| b.is_ascii_digit())) {
            for gpu in gpus {
                line("DeviceAllow", &format!("/dev/nvidia{gpu} rw"));
            }
        } else {
            // Named by UUID: which node that is, is the driver's to say.
            line("DeviceAllow", "char-nvidia rw");
            line("DeviceAllow", "char-nvidia-frontend rw");
        }
    }
    if let Some(bytes) = spec.memory_bytes {
        line("MemoryMax", &bytes.to_string());
    }
    if let Some(percent) = spec.cpu_percent {
        line("CPUQuota", &format!("{percent}%"));
    }
    let writable = spec.folders.iter().filter(|f| f.writable).map(|f| f.path.as_str());
    for path in writable.chain(spec.output.as_deref()) {
        line(if in_a_home(path) { "BindPaths" } else { "ReadWritePaths" }, path);
    }
    let read = spec.folders.iter().filter(|f| !f.writable).map(|f| f.path.as_str());
    for path in read.chain([spec.models.as_str()]).filter(|path| in_a_home(path)) {
        line("BindReadOnlyPaths", path);
    }
    for secret in &spec.secrets {
        let file = service.secrets(attempt).join(&secret.name);
        line("LoadCredential", &format!("{}:{}", secret.name, file.display()));
    }
    text.push_str(system);
    text
}

/// It may listen on an address that is not up yet: a network can be configured later than this socket at boot.
pub fn gateway_socket(service: &Service, spec: &Spec) -> String {
    format!(
        "[Unit]
Description=The public port of {}

[Socket]
ListenStream={}
FreeBind=yes
Backlog=4096
NoDelay=yes
Service={}
",
        service.name,
        SocketAddr::new(spec.listen, spec.port),
        service.gateway_unit("service"),
    )
}

/// `agent`: the store path of the one whose program it is. `owns_jobs`: it has a folder for them that outlives it. `secrets`:
/// its own, with the files of their values.
pub fn gateway_service(
    service: &Service,
    agent: &str,
    owns_jobs: bool,
    secrets: &[(&str, PathBuf)],
) -> String {
    let credential = |(name, file): &(&str, PathBuf)| format!("LoadCredential={name}:{}\n", file.display());
    let credentials: String = secrets.iter().map(credential).collect();
    let state = if owns_jobs {
        format!("StateDirectory={}\nStateDirectoryMode=0700\n", service.gateway_state())
    } else {
        String::new()
    };
    format!(
        "[Unit]
Description=The gateway of {name}
StartLimitIntervalSec=0
Requires={socket}
After={socket}

[Service]
Type=notify
NotifyAccess=all
ExecStartPre=+{program} admit {name}
ExecStart={program} gateway --settings {settings}
Restart=always
RestartSec=100ms
KillMode=mixed
TimeoutStopSec=20
LimitNOFILE=65536
RuntimeDirectory={runtime}
RuntimeDirectoryPreserve=yes
{state}{credentials}SyslogIdentifier={name}-gateway
DynamicUser=yes
User=sfg-{name}
{SANDBOX}{no_daemon}{FAULTS}ProtectHome=yes
PrivateDevices=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
",
        name = service.name,
        socket = service.gateway_unit("socket"),
        program = program(agent),
        settings = service.gateway_settings().display(),
        runtime = service.gateway_runtime(),
        no_daemon = no_nix_daemon(service),
    )
}

/// Whoever may connect is nobody's secret; who is heard is decided by the program.
pub fn scaler_socket(service: &Service) -> String {
    format!(
        "[Unit]
Description=Where the gateway of {} asks for instances

[Socket]
ListenStream={}
SocketMode=0666
DirectoryMode=0755
Backlog=16
Service={}
",
        service.name,
        service.scaler_socket().display(),
        service.scaler_unit("service"),
    )
}

/// Root, because it starts units. It talks to systemd and to the gateway over Unix sockets, and has no network.
pub fn scaler_service(service: &Service, agent: &str) -> String {
    format!(
        "[Unit]
Description=Starts and stops instances of {name} as its gateway asks
StartLimitIntervalSec=0
Requires={socket}
After={socket}

[Service]
Type=exec
ExecStart={program} scaler {name}
Restart=on-failure
RestartSec=1
TimeoutStopSec=60
SyslogIdentifier={name}-scaler
NoNewPrivileges=yes
PrivateNetwork=yes
ProtectSystem=full
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
",
        name = service.name,
        socket = service.scaler_unit("socket"),
        program = program(agent),
    )
}

/// The one unit outside /run: it makes the others, at boot. If it is killed, or the disk did not take a write, it tries
/// again a few times, since nothing else would bring the services up. A state that cannot be read stays so, and the unit
/// has failed.
pub fn boot(agent: &Path) -> String {
    format!(
        "[Unit]
Description=stillframe: brings back this host's services
RequiresMountsFor=/nix/store {state}
After=local-fs.target network.target
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=oneshot
RemainAfterExit=yes
Restart=on-failure
RestartSec=2
ExecStart={agent}/bin/stillframe-agent boot

[Install]
WantedBy=multi-user.target
",
        state = agent.parent().unwrap_or(Path::new("/")).display(),
        agent = agent.display(),
    )
}

/// The unit names of a generation's instances.
pub fn instances(service: &Service, number: u64, places: &[Place]) -> Vec<(Place, String)> {
    places
        .iter()
        .map(|place| (*place, InstanceId { slot: place.slot, generation: number }.unit(&service.name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;
    use crate::protocol::spec::{Folder, Rotation, SPEC_VERSION, SecretUse};
    use std::net::{IpAddr, Ipv4Addr};

    fn wanted() -> Wanted {
        let spec = Spec {
            version: SPEC_VERSION,
            service: "demo".into(),
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 8188,
            api_keys: vec![],
            gateway: Default::default(),
            callers: Default::default(),
            metrics_port: None,
            slots: vec![vec![], vec!["0".into(), "3".into()], vec!["GPU-12ab".into()]],
            instances: 3,
            maximum: 3,
            scaling: None,
            memory_bytes: Some(24 << 30),
            cpu_percent: Some(350),
            user: None,
            models: "/home/artist/models".into(),
            output: Some("/mnt/pictures".into()),
            folders: vec![
                Folder { path: "/home/artist/drop".into(), at: "input/drop".into(), writable: true },
                Folder { path: "/srv/luts".into(), at: "luts".into(), writable: false },
            ],
            keep: vec![],
            secrets: vec![SecretUse { name: "HF_TOKEN".into(), variable: Some("HF_TOKEN".into()), at: None }],
            arguments: vec![],
            environment: Default::default(),
            driver: None,
            ports: (20_000, 20_999),
            health: Default::default(),
            rotation: Rotation::Surge,
            drain_ms: 1,
            retention: Default::default(),
            jobs: None,
        };
        Wanted {
            snapshot: "/nix/store/h-comfyui-snapshot".into(),
            agent: "/nix/store/h-stillframe-agent-0.1.0".into(),
            launch: "demo".into(),
            classes: Default::default(),
            offered: Default::default(),
            spec,
        }
    }

    /// Every word of a unit is read by systemd as root: none changes unseen.
    #[test]
    fn the_units_are_the_golden_ones() {
        let service = Layout::new(Path::new("/var/lib/stillframe")).service("demo");
        let (wanted, place) = (wanted(), |slot| Place { slot, port: None });
        let host_user =
            Wanted { spec: Spec { user: Some("comfy".into()), ..wanted.spec.clone() }, ..wanted.clone() };
        let fonts = [crate::protocol::launch::SystemFile {
            at: "/usr/share/fonts/truetype".into(),
            from: "/nix/store/h-system-usr-share-fonts-truetype".into(),
        }];
        let fonts = crate::host::system_files::lines(&fonts, &[]);
        let secrets = [("webhook-secret", service.secrets(12).join("webhook-secret"))];
        let texts = [
            ("instance-cpu.service", instance(&service, 7, place(0), &wanted, 12, Users::Own, &fonts)),
            ("instance-gpus.service", instance(&service, 7, place(1), &wanted, 12, Users::Shared, "")),
            ("instance-uuid.service", instance(&service, 7, place(2), &host_user, 12, Users::Shared, "")),
            ("gateway.socket", gateway_socket(&service, &wanted.spec)),
            ("gateway.service", gateway_service(&service, &wanted.agent, false, &[])),
            ("gateway-jobs.service", gateway_service(&service, &wanted.agent, true, &[])),
            ("gateway-secrets.service", gateway_service(&service, &wanted.agent, true, &secrets)),
            ("scaler.socket", scaler_socket(&service)),
            ("scaler.service", scaler_service(&service, &wanted.agent)),
            ("stillframe.service", boot(Path::new("/var/lib/stillframe/agent"))),
        ];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/units");
        for (name, text) in texts {
            let golden = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            if std::env::var_os("STILLFRAME_WRITE_GOLDEN").is_some() {
                std::fs::write(folder.join(name), &text).unwrap();
                continue;
            }
            assert_eq!(text, golden, "{name}; STILLFRAME_WRITE_GOLDEN=1 writes it anew, to be read");
        }
    }
}
