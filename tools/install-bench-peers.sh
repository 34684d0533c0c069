#!/bin/sh
# Installs what "make bench-routing" compares the proxy with, on Debian and
# what derives from it. The benchmark starts each by itself with a configuration
# of its own, so the packages are kept from starting their services.
set -eu

packages="haproxy nginx wrk caddy"
if ! command -v apt-get >/dev/null; then
	echo "this machine has no apt-get; install these by its own means: $packages" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "run this as root: sudo $0" >&2
	exit 1
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi

apt-get update
# shellcheck disable=SC2086 # these are several words
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
for p in $packages; do
	printf '%-8s %s\n' "$p" "$(dpkg-query -W -f '${Version}' "$p")"
done
