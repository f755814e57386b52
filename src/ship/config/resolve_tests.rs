use super::super::wrong::line_of;
use super::*;
use crate::protocol::jobs::DrainRunning;

fn config(text: &str) -> ServiceConfig {
    toml::from_str(text).unwrap()
}

fn spec(project: &str, host: &str, found: &[&str]) -> Result<Spec, String> {
    let found: Vec<String> = found.iter().map(|g| (*g).to_string()).collect();
    let merged = config(host).over(&config(project));
    merged.spec(&found, Vec::new(), None).map_err(|w| format!("{} {}", w.key, w.why))
}

#[test]
fn what_nobody_says_has_a_default() {
    let spec = spec("models = \"/srv/models\"", "", &[]).unwrap();
    assert_eq!((spec.service.as_str(), spec.port, spec.metrics_port), ("comfyui", 8188, Some(8189)));
    assert_eq!(
        (spec.slots.len(), spec.instances, spec.drain_ms, spec.gateway.hold_ms),
        (1, 1, 60_000, 15_000)
    );
    assert_eq!((spec.rotation, spec.retention.generations), (Rotation::Surge, 3));
    assert!(spec.listen.is_loopback());
}

#[test]
fn a_host_comes_before_the_project_and_lists_replace() {
    let project = "models = \"/srv/models\"\nport = 80\narguments = [\"--in-the-snapshot\"]\nenvironment = { A = \"1\" }\n\
                   gpus = [0, 1]\nkeep = [\"custom_nodes/a/data\"]\nresources = { memory = \"24GiB\", cpu = 4 }\n\
                   secrets.TOKEN = { env = \"TOKEN\" }\n";
    let host = "arguments = [\"--here\"]\nslots = 2\nscaling.minimum = 2\nresources = { memory = \"12GiB\" }\n\
                secrets.KEY = { file = \"key\", as = \"file\" }\nkeep = []\nrotation = \"replace\"\n";
    let spec = spec(project, host, &[]).unwrap();
    assert_eq!(
        (spec.port, spec.arguments, spec.keep),
        (80, vec!["--here".to_string()], Vec::<String>::new())
    );
    assert!(spec.environment.is_empty());
    assert_eq!((spec.slots, spec.instances), (vec![Vec::<String>::new(), vec![]], 2));
    assert_eq!((spec.memory_bytes, spec.cpu_percent), (Some(12 << 30), Some(400)));
    let secrets: Vec<_> = spec.secrets.iter().map(|s| (s.name.as_str(), s.variable.as_deref())).collect();
    assert_eq!(secrets, [("KEY", None), ("TOKEN", Some("TOKEN"))]);
    assert_eq!(spec.gateway.hold_ms, 120_000);
}

#[test]
fn the_queue_is_the_gateways_unless_it_is_the_instances() {
    let jobs = |project: &str, host: &str| {
        spec(&format!("models = \"/m\"\n{project}"), host, &[]).map(|spec| spec.jobs)
    };
    assert_eq!(jobs("", ""), Ok(Some(Jobs::default())));
    // Limits of a project say nothing of who has the queue.
    assert_eq!(jobs("jobs.waiting = 5\njobs.queue = \"instances\"", ""), Ok(None));
    assert_eq!(jobs("jobs.queue = \"gateway\"", "jobs.queue = \"instances\""), Ok(None));
    assert_eq!(jobs("jobs.queue = \"gateway\"", ""), Ok(Some(Jobs::default())));
    let project = "jobs.queue = \"gateway\"\njobs.waiting = 5\njobs.tries = 1\n\
                   jobs.keep = { age = \"7d\", count = 10 }\njobs.expire-waiting = \"1h\"\n";
    let host = "jobs.waiting = 6\njobs.waiting-per-client = 2\njobs.drain-running = \"fail\"\n\
                jobs.stuck-after = \"1min\"\njobs.keep = { count = 20, bytes = \"1GiB\" }\n";
    let expected = Jobs {
        waiting: 6,
        waiting_per_client: 2,
        tries: 1,
        drain_running: DrainRunning::Fail,
        stuck_ms: 60_000,
        expire_ms: Some(3_600_000),
        keep: Keep { age_ms: 604_800_000, count: 20, bytes: 1 << 30 },
        deliveries: None,
    };
    assert_eq!(jobs(project, host), Ok(Some(expected)));
    for key in ["waiting", "waiting-per-client", "tries", "keep.count"] {
        let why = jobs(&format!("jobs.{key} = 0"), "").unwrap_err();
        assert!(why.starts_with(&format!("service.jobs.{key} is 0: ")), "{why}");
    }
    for key in ["stuck-after", "expire-waiting", "keep.age"] {
        let why = jobs(&format!("jobs.{key} = \"0s\""), "").unwrap_err();
        assert!(why.starts_with(&format!("service.jobs.{key} is 0: ")), "{why}");
    }
}

#[test]
fn slots_follow_the_gpus() {
    let slots = |text: &str, found: &[&str]| {
        spec(&format!("models = \"/m\"\n{text}"), "", found)
            .map(|s| s.slots.iter().map(|g| g.join("+")).collect::<Vec<_>>())
    };
    assert_eq!(slots("", &["0", "1"]).unwrap(), ["0", "1"]);
    assert_eq!(slots("gpus = \"none\"", &["0", "1"]).unwrap(), [""]);
    assert_eq!(slots("gpus = [1]", &["0", "1"]).unwrap(), ["1"]);
    assert_eq!(slots("gpus = [\"GPU-12ab\"]", &["0"]).unwrap(), ["GPU-12ab"]);
    assert_eq!(slots("slots = [[0, 1], [2]]", &[]).unwrap(), ["0+1", "2"]);
    assert_eq!(slots("gpus = \"all\"", &[]).unwrap_err(), "service.gpus is \"all\", and the host has none");
    assert_eq!(slots("gpus = []", &["0"]).unwrap_err(), "service.slots leaves no slot");
}

#[test]
fn how_many_instances_there_may_be_is_judged_by_the_hosts_own_gpus() {
    let service = |text: &str| config(&format!("models = \"/m\"\nscaling.minimum = 2\n{text}"));
    let few = Err("service.scaling.minimum asks for 2 instances, and there are 1 slots".to_string());
    let check = |text: &str| service(text).check().map_err(|w| w.to_string());
    // A host may have two GPUs, as far as this workstation knows.
    assert_eq!([check(""), check("gpus = \"auto\""), check("gpus = \"all\"")], [Ok(()), Ok(()), Ok(())]);
    assert_eq!(
        [check("gpus = \"none\""), check("slots = 1"), check("gpus = [3]")],
        [few.clone(), few.clone(), few.clone()]
    );
    assert_eq!(check("gpus = []"), Err("service.slots leaves no slot".into()));
    let on_host = |gpus: &[&str]| {
        let found: Vec<String> = gpus.iter().map(|g| (*g).to_string()).collect();
        service("").spec(&found, Vec::new(), None).map(|s| s.instances).map_err(|w| w.to_string())
    };
    assert_eq!([on_host(&["0", "1"]), on_host(&["0"])], [Ok(2), few.map(|()| 0)]);
}

#[test]
fn what_cannot_be_is_named_by_its_key() {
    let wrong = |text: &str| spec(&format!("models = \"/m\"\n{text}"), "", &[]).unwrap_err();
    assert_eq!(
        spec("", "", &[]).unwrap_err(),
        "service.models is not set: say where the models are on the host"
    );
    assert_eq!(
        wrong("name = \"My Service\""),
        "service.name is \"My Service\": use 1 to 27 letters a-z, digits and '-', neither first nor last"
    );
    assert_eq!(
        wrong("scaling.minimum = 2"),
        "service.scaling.minimum asks for 2 instances, and there are 1 slots"
    );
    assert_eq!(
        wrong("scaling = { minimum = 2, maximum = 1 }"),
        "service.scaling.maximum is 1, below the minimum of 2"
    );
    assert_eq!(
        wrong("listen = \"0.0.0.0\""),
        "service.listen is not loopback, and ComfyUI runs whatever it is sent: set [service.gateway] api-keys (or \
         without-api-key = true, where nobody else can reach it)"
    );
    assert!(spec("models = \"/m\"\nlisten = \"::\"\ngateway.without-api-key = true", "", &[]).is_ok());
    assert_eq!(
        wrong("keep = [\"../x\"]"),
        "service.keep is \"../x\": write a path below ComfyUI's base directory"
    );
    assert_eq!(
        wrong("keep = [\"user/default\"]"),
        "service.keep names \"user/default\", which is kept anyway"
    );
    assert_eq!(
        wrong("folders = [{ path = \"/mnt/a b\", at = \"input/x\" }]"),
        "service.folders.path is \"/mnt/a b\": write an absolute path, without \"..\", blanks, quotes, '\\', '%', '$', ':' \
         and ';'"
    );
    assert_eq!(
        wrong("secrets.\"a-b\" = { env = \"X\" }"),
        "service.secrets names \"a-b\": use letters, digits and '_'"
    );
    for (at, why) in [
        ("user/key", "user is shared by all instances"),
        ("custom_nodes/a/kept/key", "custom_nodes/a/kept is in service.keep"),
        ("custom_nodes/b/key", "custom_nodes/b is in service.folders"),
    ] {
        let more =
            "keep = [\"custom_nodes/a/kept\"]\nfolders = [{ path = \"/mnt\", at = \"custom_nodes/b\" }]\n";
        assert_eq!(
            wrong(&format!("{more}secrets.A = {{ env = \"X\", at = \"{at}\" }}")),
            format!(
                "service.secrets.at of A is \"{at}\", and {why}: name a file of a pack or of the main program"
            )
        );
    }
    assert_eq!(
        wrong("secrets.A = { env = \"X\", at = \"../key\" }"),
        "service.secrets.at is \"../key\": write a path below ComfyUI's base directory"
    );
    assert_eq!(
        wrong("user = \"root\""),
        "service.user is \"root\": name a user of the host, other than root"
    );
}

#[test]
fn wrong_types_say_what_is_right() {
    let wrong = |text: &str| toml::from_str::<ServiceConfig>(text).unwrap_err().message().to_string();
    assert_eq!(
        wrong("drain = 60"),
        "invalid type: integer `60`, expected a span of time with its unit, as in \"60s\""
    );
    assert_eq!(
        wrong("resources.memory = \"24 gigs\""),
        "\"24 gigs\" is no size: write a number and a unit, as in \"24GiB\" (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)"
    );
    assert_eq!(
        wrong("gpus = \"some\""),
        "gpus is \"auto\", \"all\", \"none\" or a list of GPU numbers or UUIDs"
    );
    assert_eq!(
        wrong("instance-ports = \"80-90\""),
        "\"80-90\" is no range of ports: write \"20000-20999\", from 1024 on"
    );
    assert_eq!(wrong("resources.cpu = 0"), "0 is no number of cores: write 4 or 1.5");
    let share = |text: &str| toml::from_str::<RolloutConfig>(text).map_err(|e| e.message().to_string());
    assert_eq!(share("batch = \"25%\"").unwrap().batch.map(|b| b.of(10)), Some(2));
    assert_eq!(share("batch = 3").unwrap().batch.map(|b| b.of(10)), Some(3));
    assert_eq!(
        share("batch = \"half\"").unwrap_err(),
        "\"half\" is neither a number of hosts nor a part of them as in \"25%\""
    );
}

#[test]
fn callers_and_their_shares() {
    let project = "models = \"/m\"\n[gateway]\norigins = [\"HTTPS://Pictures.example:443\"]\nhosts = [\"a\"]\nconnections = 400\n";
    let host = "[gateway]\nhosts = [\"GPU.lan\"]\ntrusted-proxies = [\"10.0.0.0/8\", \"::1\"]\nwaiting-per-client = 5\n";
    let resolved = spec(project, host, &[]).unwrap();
    let callers = serde_json::to_value(&resolved.callers).unwrap();
    let expected = serde_json::json!({
        "hosts": ["gpu.lan"], "origins": ["https://pictures.example"],
        "trusted_proxies": ["10.0.0.0/8", "::1/128"],
    });
    assert_eq!(callers, expected);
    let limits = resolved.gateway;
    assert_eq!((limits.of_client(), limits.held_of_client()), (100, 5));
    assert_eq!((limits.of_key(1), limits.of_key(2)), (400, 200));
    assert_eq!((limits.held_of_key(1), limits.held_of_key(2), limits.wrong_of_client()), (256, 128, 20));
    // What an earlier version wrote, and reads, knows none of these keys.
    let plain = serde_json::to_value(spec("models = \"/m\"", "", &[]).unwrap()).unwrap();
    assert!(plain.get("callers").is_none() && plain["gateway"].get("wrong_keys").is_none(), "{plain}");
    let wrong = |text: &str| toml::from_str::<ServiceConfig>(text).unwrap_err().message().to_string();
    assert_eq!(
        wrong("gateway.origins = [\"pictures.example\"]"),
        "\"pictures.example\" is no origin: write it as browsers do, as in \"https://pictures.example\", without a path"
    );
    assert_eq!(
        wrong("gateway.trusted-proxies = [\"10.0.0.0/40\"]"),
        "\"10.0.0.0/40\" is no network: write \"10.0.0.0/8\", \"fd00::/8\" or an address"
    );
    assert_eq!(
        wrong("gateway.hosts = [\"a:80\"]"),
        "\"a:80\" is no host name: write the name alone, as in \"pictures.example\" (an international one as xn--…)"
    );
}

#[test]
fn a_keys_line_is_found() {
    let text = "environment = \"x\"\n[service]\nname = \"a\"\nscaling.minimum = 2\n\n[service.health]\npasses = 0\n[[service.folders]]\npath = \"/a\"\n";
    for (key, line) in [
        ("service.name", Some(3)),
        ("service.scaling.minimum", Some(4)),
        ("service.health.passes", Some(7)),
        ("service.folders.path", Some(9)),
        ("service.port", None),
    ] {
        assert_eq!(line_of(text, key), line, "{key}");
    }
    assert_eq!(line_of("[service]\nscaling = { minimum = 2 }\n", "service.scaling.minimum"), Some(2));
}
