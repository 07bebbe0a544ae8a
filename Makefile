# Each target sets up what it needs on a fresh machine with Rust, then calls cargo. Pass options with ARGS:
#   make demo ARGS=--once        make test ARGS="--test embedded"

ARGS ?=
# Tests of the program wait more than they compute.
export RUST_TEST_THREADS ?= 4

.PHONY: help demo test lint sqlx bench

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: ## Sandbox API, embedded PostgreSQL, sync, and queries to try
	@scripts/setup-postgres
	cargo run --release -- demo $(ARGS)

test: ## All tests
	@scripts/setup-postgres --or-docker
	cargo test $(ARGS)

lint: ## Formatting, clippy and documentation, as in CI
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

sqlx: ## Write .sqlx anew after a change of queries or migrations
	@scripts/prepare-queries

bench: ## All benchmarks, about ten minutes; ARGS=--quick for a first look
	@scripts/setup-postgres
	cargo build --release
	@cp target/release/heymarket-sync target/release/heymarket-sync-measured
	BENCH_BINARY=target/release/heymarket-sync-measured cargo bench --bench mirror -- $(ARGS)
