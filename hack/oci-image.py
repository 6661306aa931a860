#!/usr/bin/env python3
"""Makes an OCI image archive of a static program without a container tool: one layer with the program and CA roots, run as a user
that is not root. The same input gives the same bytes, and so the same digest, wherever and whenever it runs.

usage: oci-image.py --program FILE --roots FILE --version TEXT --architecture amd64 --output FILE.tar
Prints the digest of the manifest and the compressed size."""
import argparse
import gzip
import hashlib
import io
import json
import sys
import tarfile

USER = 10001
ROOTS = "etc/ssl/certs/ca-certificates.crt"
# What the archive says of its time; a build's own would make each one differ.
EPOCH = "1970-01-01T00:00:00Z"


def tar_of(entries):
    """A tar of (name, mode, bytes or None for a folder), all owned by root, all from the epoch."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode, content in entries:
            info = tarfile.TarInfo(name)
            info.mode = mode
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def main():
    parser = argparse.ArgumentParser()
    for name in ("program", "roots", "version", "architecture", "output"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    with open(arguments.program, "rb") as file:
        program = file.read()
    if program[:4] != b"\x7fELF":
        sys.exit(f"{arguments.program}: expected a Linux program (ELF), found something else")
    # A program header of type 3 names a dynamic loader, which an image from scratch does not have.
    offset, size, count = (int.from_bytes(program[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    if any(int.from_bytes(program[offset + i * size:][:4], "little") == 3 for i in range(count)):
        sys.exit(f"{arguments.program}: expected a static program, found one that needs a dynamic loader")
    with open(arguments.roots, "rb") as file:
        roots = file.read()
    if b"-----BEGIN CERTIFICATE-----" not in roots:
        sys.exit(f"{arguments.roots}: expected certificates as PEM, found none")

    layer = tar_of([
        ("etc", 0o755, None),
        ("etc/group", 0o644, f"serin:x:{USER}:\n".encode()),
        ("etc/passwd", 0o644, f"serin:x:{USER}:{USER}:serin:/:/sbin/nologin\n".encode()),
        ("etc/ssl", 0o755, None),
        ("etc/ssl/certs", 0o755, None),
        (ROOTS, 0o644, roots),
        ("serin", 0o755, program),
    ])
    packed = gzip.compress(layer, compresslevel=9, mtime=0)
    labels = {
        "org.opencontainers.image.title": "serin",
        "org.opencontainers.image.description": "Progressive delivery for Kubernetes that takes Flagger's manifests unchanged",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": arguments.version,
    }
    config = as_json({
        "architecture": arguments.architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": ["/serin"],
            "Env": [f"SSL_CERT_FILE=/{ROOTS}"],
            "ExposedPorts": {"8080/tcp": {}},
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "history": [{"created": EPOCH, "created_by": "hack/oci-image.py"}],
    })

    def described(kind, content, **more):
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(content), "size": len(content), **more}

    manifest = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config),
        "layers": [described("layer.v1.tar+gzip", packed)],
        "annotations": labels,
    })
    index = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described(
            "manifest.v1+json", manifest,
            platform={"architecture": arguments.architecture, "os": "linux"},
            annotations={"org.opencontainers.image.ref.name": arguments.version},
        )],
    })
    blobs = sorted((digest(blob).removeprefix("sha256:"), blob) for blob in (config, packed, manifest))
    archive = tar_of([
        ("oci-layout", 0o644, as_json({"imageLayoutVersion": "1.0.0"})),
        ("index.json", 0o644, index),
        ("blobs", 0o755, None),
        ("blobs/sha256", 0o755, None),
        *((f"blobs/sha256/{name}", 0o644, blob) for name, blob in blobs),
    ])
    with open(arguments.output, "wb") as file:
        file.write(archive)
    print(f"{arguments.output}: {digest(manifest)}, {len(packed) / 1e6:.2f} MB compressed, {len(layer) / 1e6:.2f} MB unpacked")


main()
