#!/bin/sh
# Syncs the sample list beside this file into a map of its own under .demo/, then asks that map what Postfix would.
# Needs syncagent on PATH (`make demo` sees to that). Touches nothing outside .demo/.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
demo=$(cd "$here/../.." && pwd)/.demo
config=$demo/syncagent.toml
PATH=$PATH:/usr/sbin:/sbin # where postmap is, though not on everybody's PATH

fill_in() { sed -e "s|@DIR@|$demo|" -e "s|@TYPE@|$type|" "$here/$1"; }

# The first of these that this Postfix can write; without Postfix, the plain text file that texthash: reads.
map_type() {
    if command -v postmap >/dev/null; then
        known=$(postconf -c "$demo/postfix" -m)
        for type in lmdb hash btree cdb; do
            if echo "$known" | grep -qx "$type"; then
                echo "$type"
                return
            fi
        done
    fi
    echo texthash
}

run() {
    echo
    echo "\$ $*"
    "$@"
}

# look_up ADDRESS: is it in the map?
look_up() {
    if command -v postmap >/dev/null; then
        run postmap -c "$demo/postfix" -q "$1" "$type:$demo/relay_recipients"
    else
        run grep -F "$1" "$demo/relay_recipients"
    fi
}

ask() {
    if look_up "$1"; then
        echo "  found: Postfix would answer 'RCPT TO:<$1>' with 250 Ok"
    else
        echo "  not found: Postfix would answer 'RCPT TO:<$1>' with 550 5.1.1 User unknown in relay recipient table"
    fi
}

rm -rf "$demo"
mkdir -p "$demo/postfix"
cp "$here/recipients" "$demo/"
type=texthash
fill_in main.cf >"$demo/postfix/main.cf"
type=$(map_type)
fill_in main.cf >"$demo/postfix/main.cf"
fill_in syncagent.toml >"$config"
# Run by root in somebody else's checkout: syncagent does its work as whoever owns that.
[ "$(id -u)" != 0 ] || chown -R --reference="$here/../.." "$demo"

run cat "$demo/recipients"
run syncagent --config "$config" plan
run syncagent --config "$config" sync
echo
echo "Once more: nothing has changed, so nothing is done."
run syncagent --config "$config" sync
run cat "$demo/relay_recipients"
ask anna.schmidt@example.com
ask nobody@example.com

echo
if command -v postmap >/dev/null; then
    echo "The map is $type:, indexed and asked through Postfix's postmap."
else
    echo "The map is texthash: and was searched as text: there is no Postfix here (package postfix) to ask."
fi
echo "With postfix.doubt_map, unknown recipients get 450 instead of 550 while something is in doubt: contrib/docs/doubt.md."
echo "Everything is in $demo to look at. Change $demo/recipients and sync again:"
echo "  $(command -v syncagent) --config $config sync"
