#!/bin/bash
# The inside of machine.rs: turns this process into PID 1 of a throw-away machine with a real systemd.
#
#   machine.sh root DIR    entered in new mount, uts, ipc and pid namespaces (unshare --fork), as their PID 1
#   machine.sh boot DIR    the second step, in new network and cgroup namespaces too
#   machine.sh enter DIR PID CMD...    runs CMD in all namespaces of the machine whose PID 1 is PID on the host
#
# DIR holds  root/ (empty, becomes the machine's /),  files/ (copied over it),  enable (unit names, one a line),
# cgroup (path of the machine's cgroup2 directory).  Everything mounted here lives in a mount namespace that dies with
# PID 1; on the host only DIR and the cgroup exist, and machine.rs removes both.
set -euo pipefail
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

# What no process of the machine may have, PID 1 and entered commands alike: it shares the kernel, the modules and the
# clock with the host.  CAP_SYS_TIME above all: with it a time daemon in here would set the real clock.
DROP=-sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog,-audit_control,-audit_read,-wake_alarm,-mac_admin,-mac_override

STEP=$1 DIR=$2
R=$DIR/root

root() {
    echo 0 > "$(cat "$DIR/cgroup")/cgroup.procs"        # every child too: cgroup.kill ends the whole machine
    mount -t tmpfs -o mode=755,size=256m tmpfs "$R"
    mkdir "$R"/{upper,work,merged}
    mount -t overlay -o "lowerdir=/,upperdir=$R/upper,workdir=$R/work" overlay "$R/merged"
    clean_root "$R/merged"
    cp -a "$DIR/files/." "$R/merged/"
    local unit
    while read -r unit; do
        systemctl --root="$R/merged" --quiet enable "$unit"
    done < "$DIR/enable"
    exec unshare --net --cgroup "$0" boot "$DIR"
}

# A machine that has never been booted and owns no hardware: no units, mounts or generators of the host.
clean_root() {
    local r=$1 unit generator
    rm -rf "$r"/etc/systemd/{system,network}/* "$r"/etc/rc?.d "$r"/lib/systemd/system/multi-user.target.wants/*
    rm -rf "$r"/etc/sysctl.d/* "$r"/var/log/journal "$r"/var/lib/systemd/timers "$r"/etc/tfo-fleet
    # A container image's "start nothing": this machine has a systemd, and its packages may start what they like.
    rm -f "$r"/usr/sbin/policy-rc.d
    mkdir -p "$r"/etc/systemd/{system,system.conf.d,system-generators} "$r"/etc/sysctl.d
    for generator in "$r"/lib/systemd/system-generators/*; do
        ln -sf /dev/null "$r/etc/systemd/system-generators/${generator##*/}"
    done
    for unit in getty.target systemd-logind.service systemd-modules-load.service systemd-update-utmp.service \
        systemd-update-utmp-runlevel.service systemd-journald-audit.socket systemd-remount-fs.service \
        dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
        sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount apt-daily.timer apt-daily-upgrade.timer \
        systemd-timesyncd.service systemd-udevd.service systemd-udev-trigger.service; do
        ln -sf /dev/null "$r/etc/systemd/system/$unit"
    done
    printf '[Manager]\nDefaultTimeoutStartSec=20s\nDefaultTimeoutStopSec=5s\n' > "$r/etc/systemd/system.conf.d/box.conf"
    : > "$r/etc/fstab"
    : > "$r/etc/sysctl.conf"
    tr -d - < /proc/sys/kernel/random/uuid > "$r/etc/machine-id"
    echo box > "$r/etc/hostname"
}

boot() {
    local m=$R/merged name major minor
    hostname box
    ip link set lo up
    mount -t proc -o nosuid,nodev,noexec proc "$m/proc"
    # /proc/sys read-only, but for the network's: that one is bound first, or it would be read-only as well.
    mount --bind "$m/proc/sys/net" "$m/proc/sys/net"
    mount --bind "$m/proc/sys" "$m/proc/sys"
    mount -o remount,bind,ro "$m/proc/sys"
    mount --bind "$m/proc/sys/net" "$m/proc/sys/net"
    mount -o remount,bind,rw "$m/proc/sys/net"
    for name in kcore kmsg sysrq-trigger; do
        [ ! -e "$m/proc/$name" ] || mount --bind /dev/null "$m/proc/$name"
    done
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$m/sys"
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$m/sys/fs/cgroup"
    mount -t tmpfs -o mode=755,nosuid,nodev,size=64m tmpfs "$m/run"
    mkdir -m 1777 "$m/run/lock"
    mount -t tmpfs -o mode=1777,nosuid,nodev,size=64m tmpfs "$m/tmp"
    mount -t tmpfs -o mode=755,nosuid,noexec,size=1m tmpfs "$m/dev"
    while read -r name major minor; do
        mknod -m 666 "$m/dev/$name" c "$major" "$minor"
    done <<< $'null 1 3\nzero 1 5\nfull 1 7\nrandom 1 8\nurandom 1 9\ntty 5 0'
    mkdir "$m"/dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$m/dev/pts"
    mount -t tmpfs -o mode=1777,nosuid,nodev,size=16m tmpfs "$m/dev/shm"
    ln -s pts/ptmx "$m/dev/ptmx"
    ln -s /proc/self/fd "$m/dev/fd"
    # A boot id of its own, so that the journal tells this boot from the host's.
    cat /proc/sys/kernel/random/uuid > "$m/run/boot_id"
    mount --bind "$m/run/boot_id" "$m/proc/sys/kernel/random/boot_id"
    cd "$m"
    pivot_root . .
    umount -l .
    cd /
    # Left to the container manager by PID 1; without it LoadCredential= gives an empty directory, without an error.
    mount --make-rshared /
    exec env -i container=tfo-test PATH="$PATH" \
        setpriv --bounding-set "$DROP" -- /lib/systemd/systemd --system --unit=multi-user.target --show-status=0
}

enter() {
    local pid=$1
    shift
    exec nsenter --target "$pid" --all -- env -i container=tfo-test TERM=dumb PATH="$PATH" HOME=/root LC_ALL=C.UTF-8 \
        setpriv --bounding-set "$DROP" -- "$@"
}

case $STEP in
    root) root ;;
    boot) boot ;;
    enter) shift 2; enter "$@" ;;
    *) echo "machine.sh: unknown step $STEP" >&2; exit 2 ;;
esac
