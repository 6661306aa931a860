#!/usr/bin/env bash
# Says in one line each what this machine lacks to build and run Serin, and how to get it; silent when nothing is missing.
# usage: hack/check-tools.sh [rust] [bed]      (default: both)
set -euo pipefail
missing=0
lacks() { printf 'missing: %s\n' "$1" >&2; missing=1; }
has() { command -v "$1" >/dev/null 2>&1; }

check_rust() {
    has cargo || lacks "Rust: install rustup from https://rustup.rs; the version is in rust-toolchain.toml and is fetched by itself"
    has cc || lacks "a C compiler, for the TLS library: apt-get install gcc, or your system's equivalent"
}

# What the test bed needs besides: it builds Kubernetes from Go modules and takes some binaries from Python packages.
check_bed() {
    if ! has go; then
        lacks "Go 1.26 or later: https://go.dev/dl"
    elif [ "$(printf '%s\n' 1.21 "$(go env GOVERSION | sed 's/^go//')" | sort -V | head -1)" != 1.21 ]; then
        # From 1.21 on, go fetches the newer toolchain that a module asks for.
        lacks "Go 1.26 or later: found $(go env GOVERSION); see https://go.dev/dl"
    fi
    if ! has python3 || ! python3 -m pip --version >/dev/null 2>&1; then
        lacks "Python 3 with pip: apt-get install python3 python3-pip, or your system's equivalent"
    fi
    has ip || lacks "ip: apt-get install iproute2, or your system's equivalent"
    for program in setpriv setsid nsenter; do
        has "$program" || lacks "$program: apt-get install util-linux, or your system's equivalent"
    done
    if ! has unshare; then
        lacks "unshare: apt-get install util-linux, or your system's equivalent"
    elif [ "$(uname -s)" != Linux ] || ! unshare --user --map-root-user --net true 2>/dev/null; then
        lacks "a network namespace of our own: run on Linux as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0)"
    fi
}

[ $# -gt 0 ] || set -- rust bed
for part in "$@"; do
    case $part in
        rust) check_rust ;;
        bed) check_bed ;;
        *) printf 'usage: hack/check-tools.sh [rust] [bed]\n' >&2; exit 2 ;;
    esac
done
exit $missing
