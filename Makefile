# What one can do here. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Cargo.lock says which versions; a build that would change it fails.
LOCKED := --locked
# Where the test bed keeps the programs it built, keyed by version; SERIN_BED_HOME moves it.
BED_HOME := $(or $(SERIN_BED_HOME),.bedbin)
export SERIN_BED_HOME := $(abspath $(BED_HOME))
E2E := target/debug/serin-e2e
# cargo-fuzz needs a nightly compiler: the one it was last tried with, or whichever is installed.
FUZZ_NIGHTLY := nightly-2026-05-20
FUZZ_TOOLCHAIN = $(shell rustup toolchain list | grep -o '^$(FUZZ_NIGHTLY)' || echo nightly)
# The rooms without I/O alone, optimised.
SIMULATION = $(CARGO) run $(LOCKED) --quiet --profile simulation -p serin-simulation --
# What makes the book; a newer one is tried by hand.
MDBOOK := 0.5.4
heading = @printf '\n== %s\n' '$(1)'

.PHONY: help demo demo-cluster test e2e unit fmt fmt-check lint crds chart docs docs-reference image image-check image-e2e bench crowd sim mutants fuzz setup up down build clean tools-rust tools-bed

help: ## Lists the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: tools-rust ## Shows a good release promoted and a bad one taken back on a simulated cluster, live in the terminal; needs Rust alone
	$(call heading,build)
	$(CARGO) build $(LOCKED) --package serin
	@target/debug/serin demo $(ARGS)

demo-cluster: build ## Shows the same on a real cluster with a real gateway and Prometheus
	@$(E2E) demo

test: fmt-check lint unit sim e2e ## Runs every check there is, in the order of their cost

fmt-check: tools-rust
	$(call heading,format)
	$(CARGO) fmt --all --check

lint: tools-rust ## Checks with clippy; warnings are errors
	$(call heading,clippy)
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

unit: tools-rust ## Runs unit and property tests: no cluster, no network beyond loopback
	$(call heading,unit and property tests)
	$(CARGO) test $(LOCKED) --workspace

e2e: build ## Runs the scenarios on a real control plane with real traffic (ARGS="NAME…" picks, ARGS=--all for every one, TRIES=1, PARALLEL=1)
	$(call heading,scenarios on the test bed)
	$(E2E) run --parallel $(or $(PARALLEL),2) --tries $(or $(TRIES),2) $(ARGS)

bench: build ## Counts the API requests and measures the time that rollouts cost
	$(call heading,benchmarks)
	$(E2E) bench $(ARGS)

crowd: build ## Rolls many canaries at once under load and accounts for every request (ARGS="--requests 1000000 --rate 700")
	$(call heading,a crowd)
	$(E2E) crowd $(ARGS)

sim: tools-rust ## Runs simulated histories (N=20000 SEED=1) in an optimised build
	$(call heading,simulation)
	$(SIMULATION) --histories $(or $(N),20000) --seed $(or $(SEED),1) $(ARGS)

mutants: tools-rust ## Puts deliberate defects in and shows which invariant catches each (N=400 histories at most for each)
	$(call heading,deliberate defects)
	$(SIMULATION) --mutants --histories $(or $(N),400) --seed $(or $(SEED),1)

fuzz: tools-rust ## Fuzzes what is read from outside, SECONDS=60 for each target (TARGETS="canary …" picks)
	$(call heading,fuzzing)
	@rustup run $(FUZZ_TOOLCHAIN) rustc --version || { echo "needs: rustup toolchain install $(FUZZ_NIGHTLY)"; exit 1; }
	@command -v cargo-fuzz > /dev/null || { echo "needs: cargo install cargo-fuzz --locked"; exit 1; }
	cd fuzz && cargo +$(FUZZ_TOOLCHAIN) run --quiet --bin seeds
	cd fuzz && for target in $(or $(TARGETS),$$(cargo +$(FUZZ_TOOLCHAIN) fuzz list | grep -v seeds)); do \
	  echo "-- $$target"; \
	  cargo +$(FUZZ_TOOLCHAIN) fuzz run $$target -- -max_total_time=$(or $(SECONDS),60) \
	    -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=5 -max_len=65536 -print_final_stats=1 -verbosity=0; \
	done

fmt: tools-rust ## Formats the code
	$(CARGO) fmt --all

crds: tools-rust ## Writes crds/ from the types
	$(CARGO) run $(LOCKED) --quiet --bin serin -- crd --output crds

chart: tools-rust ## Writes what the chart has from the code: rights, definitions, the table of values
	SERIN_UPDATE=1 $(CARGO) test $(LOCKED) --quiet --test chart

docs: tools-rust ## Makes target/book from docs/ with mdBook, which is built at the first time (minutes)
	hack/book.sh $(MDBOOK)

docs-reference: tools-rust ## Writes what the pages have from the code: fields, flags, series, reasons
	SERIN_UPDATE=1 $(CARGO) test $(LOCKED) --quiet --test docs -- the_ref the_reasons
	SERIN_UPDATE=1 $(CARGO) test $(LOCKED) --quiet --lib -- providers::contract::the_table

image: tools-rust ## Builds target/image/serin.tar, an OCI image archive, and its bill of materials; needs no Docker
	hack/image.sh

image-check: tools-rust ## Builds the image twice from nothing and compares the bytes
	hack/image.sh --check

image-e2e: image build ## Installs the chart on the test bed with the program of the image in the pods
	SERIN_BED_PROGRAM=$(abspath target/image/root/serin) $(E2E) run installed

setup: build ## Builds the test bed's programs ahead of their first use (minutes, once)
	$(E2E) setup

up: build ## Starts a test bed and leaves it running
	$(E2E) up

down: build ## Ends the test bed that `make up` started
	$(E2E) down

build: tools-rust tools-bed
	$(call heading,build)
	$(CARGO) build $(LOCKED) --workspace

clean: ## Removes what was built; the test bed's programs stay, remove .bedbin/ for those
	$(CARGO) clean
	rm -rf .bed

tools-rust:
	@hack/check-tools.sh rust

tools-bed:
	@hack/check-tools.sh bed
