#!/usr/bin/env bash
# Builds the image archive and its bill of materials into target/image, without a container tool.
# usage: hack/image.sh            builds
#        hack/image.sh --check    builds once more from nothing in another folder and compares the digests
set -euo pipefail
cd "$(dirname "$0")/.."
triple=x86_64-unknown-linux-musl
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -1)
out=target/image
mkdir -p "$out"

# builds FOLDER ARCHIVE
build() {
    # Paths of this machine stay out of the program, so that its bytes are the same wherever the checkout is.
    CC_x86_64_unknown_linux_musl=${CC_x86_64_unknown_linux_musl:-cc} \
    RUSTFLAGS="--remap-path-prefix=$PWD=/serin --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
    CARGO_TARGET_DIR=$1 cargo build --locked --quiet --profile image --target "$triple" --bin serin
    python3 hack/oci-image.py --program "$1/$triple/image/serin" --roots "$out/roots/certifi/cacert.pem" \
        --version "$version" --architecture amd64 --output "$2"
}

if ! rustup target list --installed | grep -qx "$triple"; then
    rustup target add "$triple"
fi
rm -rf "$out/roots"
python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-deps --require-hashes --target "$out/roots" -r hack/requirements-image.txt
build target "$out/serin.tar"
# What is in the archive runs: alone in a root of its own, as a user that is not root.
rootfs=$out/root
rm -rf "$rootfs"
mkdir "$rootfs"
layer=$(tar -xOf "$out/serin.tar" index.json | python3 -c 'import json, sys; print(json.load(sys.stdin)["manifests"][0]["digest"].split(":")[1])')
layer=$(tar -xOf "$out/serin.tar" "blobs/sha256/$layer" | python3 -c 'import json, sys; print(json.load(sys.stdin)["layers"][0]["digest"].split(":")[1])')
tar -xOf "$out/serin.tar" "blobs/sha256/$layer" | tar -xz -C "$rootfs" --no-same-owner
if said=$(unshare --user --map-user=10001 --map-group=10001 --root="$rootfs" -- /serin version 2>&1); then
    echo "started from the archive as user 10001: $said"
elif unshare --user true 2>/dev/null; then
    echo "the program in the archive does not start: $said" >&2
    exit 1
fi
python3 hack/sbom.py --target "$triple" --output "$out/serin.cdx.json"

if [ "${1:-}" = --check ]; then
    again=target/image-again
    rm -rf "$again"
    build "$again" "$out/serin-again.tar"
    if ! cmp "$out/serin.tar" "$out/serin-again.tar"; then
        echo "the second build differs from the first: see diffoscope $out/serin.tar $out/serin-again.tar" >&2
        exit 1
    fi
    rm -rf "$again" "$out/serin-again.tar"
    echo "built twice, the same bytes"
fi
