#!/bin/sh
# install.sh: put syncagent on this host, under systemd, and say which commands start it; none of them is run. Run from
# the top of the checkout. Takes PREFIX (/opt/syncagent) and DESTDIR, below which all is put instead, as packagers want
# it, from the environment. A program that is there is replaced, a configuration not looked at: see `syncagent init`.
set -eu
umask 022
prefix=${PREFIX:-/opt/syncagent}
prefix=${prefix%/}
destdir=${DESTDIR:-}
from=contrib/systemd
lib=/usr/local/lib # systemd looks there for what did not come with the distribution

fail() {
    echo "install: $*" >&2
    exit 1
}

case $prefix in
/?*) ;;
*) fail "PREFIX must be an absolute path of its own, not '$prefix'" ;;
esac
[ "$destdir" ] || [ "$(id -u)" = 0 ] || fail "only root can do that; or say DESTDIR=DIR to have it all put below DIR"
if [ "$destdir" ]; then
    mkdir -p "$destdir"
    destdir=$(cd "$destdir" && pwd)
fi
[ ! -e "$destdir$prefix" ] || [ -e "$destdir$prefix/pyvenv.cfg" ] || fail "$prefix is there, and not of my making"

# The system's own Python first: one in a home directory cannot be seen by the service (ProtectHome).
find_python() {
    python=
    for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$name
            return
        fi
    done
}
find_python
if [ -z "$python" ]; then
    .ci/setup python3 python3-venv
    find_python
fi
[ "$python" ] || fail "no Python >= 3.11; install it (Debian 12 and later: apt-get install python3 python3-venv)"
can_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
can_venv || .ci/setup python3-venv
can_venv || fail "$python cannot make virtual environments; install its venv module (Debian: apt-get install python3-venv)"

# The program, made beside its place: whatever fails, the one that is there goes on.
new=$destdir$prefix.new
old=$destdir$prefix.old
trap 'rm -rf "$new"' EXIT
rm -rf "$new" "$old"
mkdir -p "$(dirname "$new")"
"$python" -m venv "$new"
# The versions that were tested, without what only developers need.
sed -e '/^ *--hash/d' -e 's/ *\\$//' requirements.lock >"$new/constraints.txt"
"$new/bin/python" -m pip --quiet --quiet --disable-pip-version-check --no-input \
    install --constraint "$new/constraints.txt" .
rm "$new/constraints.txt"
# It is told the place that it will have.
find "$new/bin" "$new/pyvenv.cfg" -type f -exec grep -lF "$new" {} + | while read -r file; do
    sed -i "s|$new|$prefix|g" "$file"
done
upgrade=
if [ -e "$destdir$prefix" ]; then
    upgrade=yes
    mv "$destdir$prefix" "$old"
fi
mv "$new" "$destdir$prefix"
rm -rf "$old"

# put FILE PLACE: copy it, with the program's place filled in.
put() {
    mkdir -p "$(dirname "$destdir$2")"
    sed "s|/opt/syncagent|$prefix|g" "$from/$1" >"$destdir$2"
    chmod 0644 "$destdir$2"
}
put syncagent.service $lib/systemd/system/syncagent.service
put syncagent-sync.service $lib/systemd/system/syncagent-sync.service
put syncagent-sync.timer $lib/systemd/system/syncagent-sync.timer
for unit in syncagent-doubt.service syncagent-doubt.timer syncagent-doubt-boot.service; do
    put $unit $lib/systemd/system/$unit
done
put syncagent.sysusers $lib/sysusers.d/syncagent.conf
put syncagent.tmpfiles $lib/tmpfiles.d/syncagent.conf
# Where PATH, man and the shells look.
for link in bin/syncagent $(cd "$destdir$prefix" && find share -type f \( -path 'share/man/*' -o -name '*syncagent*' \)); do
    mkdir -p "$destdir/usr/local/$(dirname "$link")"
    ln -sfn "$prefix/$link" "$destdir/usr/local/$link"
done

echo "syncagent is in $destdir$prefix. Nothing was started, and no configuration was written or touched."
[ "$upgrade" ] || echo "\`syncagent init\` writes one to start with. What to type once \`syncagent check\` is content:"
if [ -z "$destdir" ] && command -v systemd-sysusers >/dev/null && command -v systemd-tmpfiles >/dev/null; then
    systemd-sysusers $lib/sysusers.d/syncagent.conf
    systemd-tmpfiles --create $lib/tmpfiles.d/syncagent.conf
else
    echo "  systemd-sysusers syncagent.conf"
    echo "  systemd-tmpfiles --create syncagent.conf"
fi
echo "  systemctl daemon-reload"
if [ "$upgrade" ]; then
    echo "  systemctl try-restart syncagent.service"
else
    echo "  systemctl enable --now syncagent.service        # the agent; or, without one, a run every five minutes:"
    echo "  systemctl enable --now syncagent-sync.timer"
fi
echo "  systemctl enable --now syncagent-doubt.timer && systemctl enable syncagent-doubt-boot.service" \
    "       # with postfix.doubt_map"
