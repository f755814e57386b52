//! The texts of the units (systemd.unit(5), systemd.service(5), systemd.exec(5)). Pure.
//!
//! One unit for each generation and slot, not a template: editing a template changes how what runs is
//! stopped. Not used because CUDA does not start with them: PrivateDevices, MemoryDenyWriteExecute,
//! ProcSubset=pid.
use crate::run::layout::Service;
use crate::run::state::{Place, unit};
use crate::ship::spec::{Spec, Wanted};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// The agent's program of an agent's store path.
pub fn program(agent: &str) -> String {
    format!("{agent}/bin/stillframe-agent")
}

/// The user of a service's instances: a dynamic one, unless the host has one for it.
pub fn user_lines(spec: &Spec) -> String {
    match &spec.user {
        Some(user) => format!("User={user}\n"),
        None => format!("DynamicUser=yes\nUser=sf-{}\n", spec.service),
    }
}

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

const GPU_DEVICES: &[&str] = &[
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
    "char-nvidia-caps",
    "char-nvidia-caps-imex-channels",
];

/// A home folder is not there for an instance, but for what it was told to see.
fn in_a_home(path: &str) -> bool {
    ["/home", "/root", "/run/user"].iter().any(|home| Path::new(path).starts_with(home))
}

pub fn instance(service: &Service, number: u64, place: Place, wanted: &Wanted, attempt: u64) -> String {
    let spec = &wanted.spec;
    let id = format!("s{}-g{number}", place.slot);
    let name = &service.name;
    let mut text = format!(
        "[Unit]
Description=ComfyUI {name}, slot {}, generation {number}
StartLimitIntervalSec=0
RequiresMountsFor=/nix/store {data}

[Service]
Type=exec
ExecStart={} instance {}
SyslogIdentifier={name}-{id}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=15
LimitNOFILE=65536
StateDirectory=stillframe-data/{name}
",
        place.slot,
        program(&wanted.agent),
        service.instance_file(&id).display(),
        data = service.layout.data.display(),
    );
    text.push_str(&user_lines(spec));
    text.push_str(SANDBOX);
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
    text
}

pub fn gateway_socket(service: &Service, spec: &Spec) -> String {
    format!(
        "[Unit]
Description=The public port of {}

[Socket]
ListenStream={}
Backlog=4096
NoDelay=yes
Service={}
",
        service.name,
        SocketAddr::new(spec.listen, spec.port),
        service.gateway_unit("service"),
    )
}

pub fn gateway_service(service: &Service, wanted: &Wanted) -> String {
    format!(
        "[Unit]
Description=The gateway of {name}
StartLimitIntervalSec=0
Requires={socket}
After={socket}

[Service]
Type=notify
NotifyAccess=all
ExecStart={program} gateway --settings {settings}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=100ms
KillMode=mixed
TimeoutStopSec=20
LimitNOFILE=65536
RuntimeDirectory={runtime}
RuntimeDirectoryPreserve=yes
SyslogIdentifier={name}-gateway
DynamicUser=yes
User=sfg-{name}
{SANDBOX}ProtectHome=yes
PrivateDevices=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
",
        name = service.name,
        socket = service.gateway_unit("socket"),
        program = program(&wanted.agent),
        settings = service.gateway_settings().display(),
        runtime = service.gateway_runtime(),
    )
}

/// The one unit outside /run: it makes the others, at boot.
pub fn boot(agent: &Path) -> String {
    format!(
        "[Unit]
Description=stillframe: brings back this host's services
RequiresMountsFor=/nix/store {state}
After=local-fs.target network.target

[Service]
Type=oneshot
RemainAfterExit=yes
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
    places.iter().map(|place| (*place, unit(&service.name, place.slot, number))).collect()
}
