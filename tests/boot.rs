//! A real systemd boots our units with the real agent.

mod support;

use support::machine::{Image, need_machine};

#[test]
fn a_machine_cannot_touch_the_host() {
    if !need_machine() {
        return;
    }
    let machine = Image::new().boot();
    println!("{}", machine.run(&["systemctl", "--failed", "--no-pager"]));
    println!("{}", machine.run(&["systemctl", "list-units", "--no-pager"]));
    println!("{}", machine.run(&["grep", "Cap", "/proc/1/status"]));
    println!("{}", machine.run(&["grep", "Cap", "/proc/self/status"]));
    println!("{}", machine.run(&["cat", "/proc/self/mounts"]));
    println!("{}", machine.run(&["systemd-analyze", "time"]));
    println!("{}", machine.journal(None));
}
