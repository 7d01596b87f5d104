#!/bin/sh
# make-list.sh: make a list of recipients from the output of a command, on the primary, for syncagent on its backups.
#
# The list says when it was made and when it expires, and its last line proves that it is complete. FILE is replaced only
# after COMMAND succeeded and printed something: when it fails, the old list stays, and expires. The new one is written
# beside it and renamed. Several of these may run at the same time: the list that was begun last stays. Exit status 0, 64
# (usage), 65 (what COMMAND printed is no list), 69 (COMMAND failed), 73 (FILE cannot be written).
set -u
LC_ALL=C
export LC_ALL
unset CDPATH

usage() {
    cat <<END
usage: make-list.sh [--every TIME] FILE COMMAND [ARGUMENT...]

Make FILE from the lines that COMMAND prints, one recipient each. --every is the time between two runs, such as 90s, 5m,
1h (the default) or 7d: the list expires after three times as long. COMMAND must fail when it prints only a part; of a
pipeline in sh only the last command counts.
END
}

misused() {
    echo "make-list: $1" >&2
    usage >&2
    exit 64
}

# fail STATUS TEXT: the old list stays.
fail() {
    echo "make-list: $2; $file is left as it is" >&2
    exit "$1"
}

# seconds TIME: print it in seconds; fail if it is no time such as 90s, 5m, 1h30m.
seconds() {
    rest=$1 total=0
    while [ "$rest" ]; do
        number=${rest%%[!0-9]*}
        case $number in '' | ??????????*) return 1 ;; esac
        rest=${rest#"$number"}
        while :; do case $number in 0?*) number=${number#0} ;; *) break ;; esac; done  # octal otherwise
        case $rest in
            s*) unit=1 ;;
            m*) unit=60 ;;
            h*) unit=3600 ;;
            d*) unit=86400 ;;
            w*) unit=604800 ;;
            *) return 1 ;;
        esac
        rest=${rest#?}
        total=$((total + number * unit))
    done
    [ "$total" -gt 0 ] && [ "$total" -lt 10000000000 ] && echo "$total"
}

# moment SECONDS: print seconds since 1970 as RFC 3339 has them, by the date of GNU and busybox, or of BSD.
moment() {
    date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ
}

digest() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum
    else
        shasum -a 256
    fi <"$1" | cut -d ' ' -f 1
}

# made_of FILE: print when a list says that it was made.
made_of() {
    [ -f "$1" ] && sed -n -e '/^#/!q' -e 's/^# made: //p' "$1" | head -n 1
}

# put: rename the new list into place, unless a newer one is there. One run at a time, where there is flock(1).
put() {
    if command -v flock >/dev/null 2>&1; then
        exec 9<"$directory" && flock 9
    fi
    there=$(made_of "$file")
    if expr "x$there" '>' "x$made" >/dev/null && expr "x$there" '<=' "x$now" >/dev/null; then
        echo "make-list: $file was made meanwhile by a run that began later: this one is not needed" >&2
        return 0
    fi
    mv -f "$new" "$file"
}

every=1h
while [ $# -gt 0 ]; do
    case $1 in
        --every) [ $# -gt 1 ] || misused "--every needs a time"; every=$2; shift 2 ;;
        --every=*) every=${1#--every=}; shift ;;
        --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) misused "unknown option $1" ;;
        *) break ;;
    esac
done
every_seconds=$(seconds "$every") || misused "--every: expected a time such as 90s, 5m, 1h or 7d, got '$every'"
[ $# -gt 1 ] || misused "FILE and COMMAND are needed"
file=$1
shift
case $file in
    '' | */) misused "FILE must be the name of a file, got '$file'" ;;
    /*) ;;
    *) file=./$file ;;
esac
[ ! -d "$file" ] || misused "$file is a directory: FILE must be a file"
directory=${file%/*}/

new='' output=''
trap 'rm -f "$new" "$output"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# Hidden files, so that a source of type "file" that reads the whole directory does not read them.
output=$(mktemp "$directory.make-list.XXXXXX") || fail 73 "nothing can be written into $directory"
new=$(mktemp "$directory.make-list.XXXXXX") || fail 73 "nothing can be written into $directory"
chmod "$(printf '%o' $((0666 & ~0$(umask))))" "$new" || fail 73 "the mode of the new list cannot be set"

begun=$(date +%s)
made=$(moment "$begun") || fail 69 "date(1) cannot print a time"
expires=$(moment $((begun + 3 * every_seconds))) || fail 69 "date(1) cannot print a time"
"$@" >"$output" || fail 69 "$1 failed (exit status $?)"
grep -q '^[[:space:]]*[^#[:space:]]' "$output" || fail 65 "$1 printed no recipient"
[ -z "$(tail -c 1 "$output")" ] || fail 65 "the last line that $1 printed does not end in a line feed, as if it were cut"
! grep -q '^[[:space:]]*#[[:space:]]*\(made\|expires\):' "$output" || fail 65 "$1 printed a list that has dates already"

{ printf '# made: %s\n# expires: %s\n' "$made" "$expires" && cat "$output"; } >"$new" || fail 73 "no room for the new list"
count=$(($(wc -l <"$new"))) sum=$(digest "$new")
[ ${#sum} -eq 64 ] || fail 69 "neither sha256sum nor shasum is there"
printf '# end %s %s\n' "$count" "$sum" >>"$new" || fail 73 "no room for the new list"
sync "$new" 2>/dev/null || sync
now=$(moment "$(date +%s)")
put || fail 73 "the new list cannot be renamed to $file"
