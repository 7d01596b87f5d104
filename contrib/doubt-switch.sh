#!/bin/sh
# doubt-switch.sh: the dead man's switch. While syncagent is not at work, unknown recipients of every relay domain get
# 450 (try again) instead of 550. To be run every five minutes, and with --boot before Postfix starts.
#
# In DIR, syncagent keeps the table that smtpd asks, a ready-made `doubt-all` to take its place, and `alive`, which says
# when it was last at work. This renames one over the other; that needs no Python, configuration, lock or disk space.
# Killed at any point, it finishes when it is run again. The owner of DIR does the work: run by root, it becomes that
# user. It logs one line if it did something or could not; exit status 0, 64 (usage) or 73 (could not).
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset CDPATH
umask 022

future=600     # seconds: a time in `alive` that is further ahead was not written by a clock to rely on
nogroup=65534  # for an owner that this host has no account for, as in a container

usage() {
    cat <<END
usage: doubt-switch.sh DIR [--boot]

Have Postfix answer 450 instead of 550 to unknown recipients if DIR/alive says that syncagent is not at work; with
--boot, in any case. DIR is the directory of postfix.doubt_map.
END
}

misused() {
    echo "doubt-switch: $1 (usage: doubt-switch.sh DIR [--boot])" >&2
    exit 64
}

# log LEVEL TEXT: to the journal or the terminal, if the standard error is one; else to syslog, if there is one.
log() {
    if [ "${JOURNAL_STREAM:-}" ] && [ "$JOURNAL_STREAM" = "$(stat -L -c %d:%i /dev/stdin <&2 2>/dev/null)" ]; then
        case $1 in err) echo "<3>$2" ;; *) echo "<5>$2" ;; esac >&2
    elif [ -t 2 ] || [ ! -S /dev/log ] || ! timeout 10 logger -t doubt-switch -p "mail.$1" -- "$2" 2>/dev/null; then
        echo "doubt-switch: $2" >&2
    fi
}

fail() {
    log err "$1"
    exit 73
}

is_number() {
    case $1 in '' | 0?* | *[!0-9]* | ????????????????*) return 1 ;; esac
}

# head_of FILE: print how a regular file begins. A FIFO is not waited for, and of a huge file not more is read.
head_of() {
    [ -f "$1" ] && timeout 10 head -c 512 "./$1" 2>/dev/null | tr -d '\000'
}

# become UID USER: run this script as the owner of DIR, whose links and files root does not touch.
become() {
    group=$(id -g "$2" 2>/dev/null) || group=$nogroup
    set -- "$1" "$2" /bin/sh "$self" "$dir" ${boot:+--boot}
    if setpriv --reuid="$1" --regid="$group" --clear-groups true 2>/dev/null; then
        uid=$1
        shift 2
        exec setpriv --reuid="$uid" --regid="$group" --clear-groups "$@"
    elif runuser -u "$2" -- true 2>/dev/null; then
        user=$2
        shift 2
        exec runuser -u "$user" -- "$@"
    fi
    fail "$dir belongs to uid $1, and root cannot become that user: install setpriv, or run this as that user"
}

# enter: change to DIR, as its owner.
enter() {
    [ -d "$dir" ] || fail "$dir: no such directory, or uid $(id -u) cannot reach it"
    owner=$(stat -L -c '%u %U' "$dir" 2>&1) || fail "$owner"
    me=$(id -u)
    [ "$me" != 0 ] || [ "${owner%% *}" = 0 ] || become "${owner%% *}" "${owner#* }"
    cd -P "$dir" 2>/dev/null || fail "$dir: uid $me cannot enter it"
    dir=$PWD
    # Of the directory that was entered, whatever its name leads to by now.
    owner=$(stat -c %u .)
    [ "$owner" = "$me" ] || fail "$dir belongs to uid $owner: run this as that user or as root, not as uid $me"
    if [ "$me" = 0 ]; then
        case $(stat -c %a:%g .) in
        *[2367]:* | *[2367]?:*[!0]*) fail "$dir is root's, and others may write to it: chmod go-w $dir" ;;
        esac
    fi
}

# death: print why syncagent counts as dead; nothing if it is alive. Lines below the first two are not for this.
death() {
    alive=$(head_of alive)
    [ "$alive" ] || {
        echo "$dir/alive is missing or cannot be read"
        return
    }
    {
        read -r written time
        read -r limited limit
    } <<END
$alive
END
    if [ "$written $limited" != 'written limit' ] || ! is_number "$time" || ! is_number "$limit"; then
        echo "$dir/alive has no time and limit"
    elif [ $((now - time)) -gt "$limit" ]; then
        echo "it was last at work $((now - time)) s ago, and the limit is $limit s"
    elif [ $((time - now)) -gt $future ]; then
        echo "$dir/alive is $((time - now)) s in the future"
    fi
}

# read_name FILE: set $name to the table that a `doubt-all` is for, by its first line.
read_name() {
    line=$(head_of "$1" | head -n 1)
    name=${line#'# doubt-all of '}
    [ "$line" != "$name" ] || return 1
    case $name in
    '' | */* | . | .. | alive | by-hand | doubt-all | doubt-all.lmdb | doubt-switched | doubt-switch-seen) return 1 ;;
    esac
}

# mark WORD: say that it was the switch. On a full disk the mark is empty; what matters more is the switch.
# A regular file stays: another run of this script may be writing the same into it.
mark() {
    if [ -L ./.doubt-switched.new ] || { [ -e ./.doubt-switched.new ] && [ ! -f ./.doubt-switched.new ]; }; then
        rm -f ./.doubt-switched.new 2>/dev/null
    fi
    { echo "$now $1" >./.doubt-switched.new; } 2>/dev/null
    [ -f ./.doubt-switched.new ] && mv -fT ./.doubt-switched.new ./doubt-switched 2>/dev/null
}

is_marked() {
    [ -e doubt-switched ] || [ -L doubt-switched ]
}

# move FROM TO: rename. If FROM is gone, another run of this script was faster.
move() {
    said=$(mv -fT "./$1" "./$2" 2>&1) || [ ! -e "./$1" ] || fail "$dir/$2 cannot be replaced: $said"
}

# switch WORD WHY: write the mark, unless WORD is empty and it is there; rename the index, then the text.
switch() {
    if ! read_name doubt-all; then
        [ -e doubt-all.lmdb ] || return 0  # another run of this script was faster
        fail "$dir/doubt-all does not say which table it is for ($2): run 'syncagent sync'"
    fi
    [ ! -L doubt-all.lmdb ] || fail "$dir/doubt-all.lmdb is a link ($2): run 'syncagent sync'"
    [ ! "$1" ] || mark "$1"
    move doubt-all.lmdb "$name.lmdb"
    move doubt-all "$name"
    case $1 in boot) level=notice ;; *) level=err ;; esac
    log $level "unknown recipients of every relay domain get 450 until syncagent is at work: $2 ($dir/$name)"
}

# is_older FIRST SECOND: by the time of writing; as old counts as older.
is_older() {
    [ "$(stat -c %Y "$1" 2>/dev/null)" -le "$(stat -c %Y "$2" 2>/dev/null)" ] 2>/dev/null
}

# finish_text: if the last run was killed between the renames, do the second one.
finish_text() {
    read_name doubt-all || return
    here=$name
    [ ! -f "$here" ] || ! read_name "$here" || return  # it was done: syncagent is making another doubt-all
    move doubt-all "$here"
    log notice "$dir/$here: the switch was begun before, and is finished now"
}

look() {
    now=$(date +%s)
    if [ "$boot" ]; then
        word=boot why='this host was started'
    else
        word=dead why=$(death)
    fi
    if [ -f doubt-all.lmdb ]; then
        # Older than the mark: the last run was killed before it renamed anything. Newer: syncagent has made it since.
        if [ ! "$why" ] && is_marked && is_older doubt-all.lmdb doubt-switched; then
            word='' why='this was begun before and not finished'
        fi
        [ ! "$why" ] || switch "$word" "$why"
    elif is_marked; then
        finish_text
    elif [ "$why" ]; then
        fail "$dir has no doubt-all.lmdb to switch to ($why): run 'syncagent sync'"
    fi
}

dir=
boot=
for argument; do
    case $argument in
    --help)
        usage
        exit 0
        ;;
    --boot) boot=yes ;;
    -*) misused "unknown option $argument" ;;
    *)
        [ ! "$dir" ] || misused 'more than one directory'
        dir=$argument
        ;;
    esac
done
[ "$dir" ] || misused 'no directory'
case $0 in /*) self=$0 ;; *) self=$PWD/$0 ;; esac
enter
seen=yes
[ "$boot" ] || touch ./doubt-switch-seen 2>/dev/null || seen=
look
[ "$seen" ] || fail "$dir/doubt-switch-seen cannot be written by uid $me"
