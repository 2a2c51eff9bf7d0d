#!/bin/sh
# Installs SuperSync on Linux with systemd where there is no package for it:
#
#   sudo scripts/install.sh PROGRAM [SHA256]
#
# PROGRAM is the built or downloaded server. Its SHA-256 has to be the one given, or the one in PROGRAM.sha256. Takes the rest
# from the folder that this script came with. Run it again to upgrade; settings and data stay. DESTDIR puts everything below
# another folder and leaves users and services alone.
set -eu

program=${1:-}
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -f "$program" ]; then
    echo "usage: $0 PROGRAM [SHA256]" >&2
    exit 2
fi
if [ $# -eq 2 ]; then
    expected=$2
elif [ -f "$program.sha256" ]; then
    expected=$(cut -d' ' -f1 "$program.sha256")
else
    echo "There is neither a SHA-256 nor the file $program.sha256: nobody knows what this program is." >&2
    exit 1
fi
found=$(sha256sum "$program" | cut -d' ' -f1)
if [ "$found" != "$expected" ]; then
    echo "$program is damaged, or not what it should be. Nothing was installed." >&2
    echo "  expected $expected" >&2
    echo "  found    $found" >&2
    exit 1
fi
root=${DESTDIR:-}
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "This needs root: sudo $0 $*" >&2
    exit 1
fi
if [ -z "$root" ] && [ ! -d /run/systemd/system ]; then
    echo "systemd does not run here. Copy the program to /usr/local/bin, and start 'supersync serve' by what does." >&2
    exit 1
fi

here=$(cd "$(dirname "$0")/../packaging/systemd" && pwd)
umask 022
install -D -m 755 "$program" "$root/usr/local/bin/supersync.new"
# In one step: a running server keeps the file it was started from.
mv -f "$root/usr/local/bin/supersync.new" "$root/usr/local/bin/supersync"
install -D -m 755 "$here/supersync-admin" "$root/usr/local/sbin/supersync-admin"
for unit in supersync.service supersync-backup.service supersync-backup.timer; do
    install -D -m 644 "$here/$unit" "$root/etc/systemd/system/$unit"
done
install -D -m 644 "$here/supersync.sysusers" "$root/etc/sysusers.d/supersync.conf"
install -D -m 644 "$here/supersync.tmpfiles" "$root/etc/tmpfiles.d/supersync.conf"

settings=$root/etc/supersync/supersync.env
first=
if [ ! -e "$settings" ]; then
    first=yes
    # Nobody else may read it, not even now.
    (
        umask 077
        mkdir -p "$root/etc/supersync"
        secret=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
        sed "s/@JWT_SECRET@/$secret/" "$here/supersync.env" >"$settings.new"
    )
    mv "$settings.new" "$settings"
fi
if [ -z "$root" ]; then
    systemd-sysusers supersync.conf
    systemd-tmpfiles --create supersync.conf
    systemctl daemon-reload
    systemctl try-restart supersync.service
fi

echo "Installed $("$program" --version)."
if [ -n "$first" ]; then
    echo "Set PUBLIC_URL in /etc/supersync/supersync.env and put a reverse proxy with TLS in front, then:"
    echo "  systemctl enable --now supersync supersync-backup.timer"
    echo "  supersync-admin user add you@example.org"
fi
