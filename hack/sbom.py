#!/usr/bin/env python3
"""Writes the bill of materials of the program as CycloneDX 1.6: every crate that is compiled into it for one target, with version, licence,
checksum and what depends on what. Read from `cargo metadata` and Cargo.lock, so it can't say anything else than the build does; the same
sources give the same bytes.

usage: sbom.py --target x86_64-unknown-linux-musl --output FILE.cdx.json"""
import argparse
import json
import subprocess
import tomllib
import uuid

ROOT = "serin"


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    answer = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={arguments.target}"],
        check=True, stdout=subprocess.PIPE)
    metadata = json.loads(answer.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    with open("Cargo.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in locked}

    def uses(node):
        """What is compiled into it: neither tests nor build scripts nor macros that only run in the compiler."""
        return sorted(
            link["pkg"] for link in nodes[node]["deps"]
            if any(kind["kind"] is None for kind in link["dep_kinds"])
            and not any("proc-macro" in target["kind"] for target in packages[link["pkg"]]["targets"]))

    root = next(package["id"] for package in metadata["packages"] if package["name"] == ROOT and package["source"] is None)
    found, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(uses(node))

    def component(node):
        package = packages[node]
        told = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
        if package.get("license"):
            # Older crates write "MIT/Apache-2.0" for a choice.
            told["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if package.get("repository"):
            told["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        checksum = checksums.get((package["name"], package["version"]))
        if checksum:
            told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return told

    others = sorted((node for node in found if node != root), key=lambda node: purl(packages[node]))
    subject = component(root) | {"type": "application"}
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject, "properties": [{"name": "cargo:target", "value": arguments.target}]},
        "components": [component(node) for node in others],
        "dependencies": [
            {"ref": purl(packages[node]), "dependsOn": sorted({purl(packages[other]) for other in uses(node)})}
            for node in [root, *others]
        ],
    }
    content = json.dumps(bill, sort_keys=True)
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(bill, file, indent=1, sort_keys=True)
        file.write("\n")
    print(f"{arguments.output}: {len(others)} crates")


main()
