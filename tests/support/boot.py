"""A real systemd as the first process of a namespace: it boots the units that a test has put into /sd of a root.

For a root shell in mount, process and network namespaces of its own, such as those of `ThrowawayHost` and `Debian`.
"""

SYSTEMD = "/usr/lib/systemd/systemd"

BOOT = r"""
boot() {  # boot UNIT...: start these, with systemd's own targets, its journal, and what is in /sd already
    mkdir -p /sd/multi-user.target.wants /sd/sysinit.target.wants /tmp/cgroup
    own=/usr/lib/systemd/system
    for name in sysinit basic local-fs local-fs-pre timers sockets paths slices multi-user shutdown umount time-sync \
        network-online network nss-lookup; do
        cp "$own/$name.target" /sd
    done
    cp $own/systemd-journald*.socket $own/systemd-journald.service /sd
    ln -s ../systemd-journald.service /sd/sysinit.target.wants
    for unit; do ln -s "../$unit" /sd/multi-user.target.wants; done
    rm -f /etc/machine-id
    systemd-id128 new >/etc/machine-id
    mount -t tmpfs -o mode=0755 run /run
    mount -t cgroup2 none /tmp/cgroup
    group=$(mktemp -d /tmp/cgroup/boot-XXXXXX)
    sh -ec 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
        unshare --pid --mount --propagation unchanged --cgroup --fork --kill-child sh -ec '
            mount -t proc proc /proc
            mount -t sysfs -o ro sysfs /sys
            mount -t cgroup2 none /sys/fs/cgroup
            mkdir /tmp/dev
            mount -t tmpfs -o mode=0755 dev /tmp/dev
            for node in null zero full random urandom tty; do
                touch /tmp/dev/$node
                mount --bind /dev/$node /tmp/dev/$node
            done
            touch /tmp/dev/console /tmp/dev/kmsg
            mkdir /tmp/dev/pts /tmp/dev/shm
            mount -t devpts -o newinstance,ptmxmode=0666 none /tmp/dev/pts
            mount -t tmpfs none /tmp/dev/shm
            ln -s pts/ptmx /tmp/dev/ptmx
            ln -s /proc/self/fd /tmp/dev/fd
            ln -s /proc/self/fd/0 /tmp/dev/stdin
            mount --rbind /tmp/dev /dev
            mkdir /tmp/root
            mount --rbind / /tmp/root  # systemd wants its root to be a mount
            exec chroot /tmp/root env -i container=other SYSTEMD_UNIT_PATH=/sd PATH=/usr/sbin:/usr/bin:/sbin:/bin \
                /usr/lib/systemd/systemd --system --unit=multi-user.target --show-status=no
        ' </dev/null >/boot.log 2>&1 &
    echo "$! $group" >/booted
    tries=1800
    until booted systemctl is-active --quiet multi-user.target 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { cat /boot.log; booted systemctl list-jobs --no-pager; return 1; }
        sleep 0.1
    done
}

booted() {  # booted COMMAND: run it beside that systemd
    read -r started group </booted
    read -r first <"/proc/$started/task/$started/children" || true  # it has no newline
    nsenter --target "$first" --pid --mount --root --wdns=/ -- "$@"
}

end_boot() {  # kill all of its processes, and remove their control groups
    read -r started group </booted
    kill -9 "$started"
    until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.1; done
}
"""
"""Shell functions. The calling script ends boot with `end_boot`, since control groups outlive the namespaces."""
