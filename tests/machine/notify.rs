//! `[[notify]]` with a command under systemd: the unit executes nothing by itself, and with the example drop-in the command
//! runs in the coordinator's sandbox.

use std::path::Path;

use tfo_testbed::machine::{Image, need_machine};
use tfo_testbed::{program, skip_unless};

#[test]
fn with_the_example_drop_in_the_coordinator_can_run_a_command_in_its_sandbox() {
    skip_unless!(need_machine());
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let drop_ins = "/etc/systemd/system/tfo-coordinator.service.d";
    // The unit's own sandbox around one test event, as a user that each machine has.
    let probe = "[Service]\nType=oneshot\nUser=daemon\nGroup=daemon\nWatchdogSec=0\nRestart=no\nLoadCredential=\nExecReload=\n\
                 ExecStart=\nExecStart=/usr/bin/tfo-coordinator notify-test\n";
    // It writes where the service may, and tries where it may not.
    let script = "cat > /var/lib/tfo-coordinator/event && ! touch /etc/planted && ! touch /usr/bin/planted";
    let config = format!(
        "[api]\ncert = \"/none\"\nkey = \"/none\"\nclient_ca = \"/none\"\n[store]\nkey_encryption_key = \"credential:kek\"\n\
         [access]\noperators = []\n[pools.edge]\nnodes = [\"*.cache.example.org\"]\n\
         [[notify]]\nname = \"mail\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n"
    );
    let machine = Image::new()
        .copy(Path::new(program("tfo-coordinator")), "/usr/bin/tfo-coordinator", 0o755)
        .file("/etc/tfo-fleet/coordinator.toml", &config, 0o644)
        .copy(&systemd.join("tfo-coordinator.service"), "/etc/systemd/system/tfo-coordinator.service", 0o644)
        .file(&format!("{drop_ins}/probe.conf"), probe, 0o644)
        .boot();
    let start = || machine.output(&["systemctl", "start", "tfo-coordinator"]).status.success();
    assert!(!start(), "{}", machine.journal(None));
    let journal = machine.journal(None);
    assert!(journal.contains("mail: not told: cannot start /bin/sh: Permission denied"), "{journal}");
    let example = std::fs::read_to_string(systemd.join("examples/coordinator-notify.conf")).unwrap();
    machine.write_new(&format!("{drop_ins}/notify.conf"), &example);
    machine.run(&["systemctl", "daemon-reload"]);
    assert!(start(), "{}", machine.journal(None));
    let event = machine.run(&["cat", "/var/lib/tfo-coordinator/event"]);
    assert!(event.contains("\"kind\":\"test\""), "{event}");
    // What the service can write is still not executable.
    let planted = config
        .replace("\"/bin/sh\", \"-c\", ", "")
        .replace(&format!("{script:?}"), "\"/var/lib/tfo-coordinator/planted\"");
    machine.write_new("/etc/tfo-fleet/planted.toml", &planted);
    machine.run(&["sh", "-c", "cp /bin/true /var/lib/tfo-coordinator/planted && mv /etc/tfo-fleet/planted.toml /etc/tfo-fleet/coordinator.toml"]);
    assert!(!start(), "{}", machine.journal(None));
}
