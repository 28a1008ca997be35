#!/usr/bin/env bash
# Runs every fuzz target a few thousand times, from the seeds; stops at the first fault. Needs a
# nightly compiler and cargo-fuzz, which it installs, and is left out where they cannot be had.
#   RUNS=N      runs of each target
#   CARGO_TARGET_DIR, as usual
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "SKIPPED(fuzz): needs a nightly compiler"
    exit 0
fi
if ! cargo fuzz --version >/dev/null 2>&1 && ! cargo install --quiet --locked cargo-fuzz; then
    echo "SKIPPED(fuzz): needs cargo-fuzz, which could not be installed"
    exit 0
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

# The code has no unsafe block, so there is nothing for a sanitizer to find.
options=(--release --debug-assertions --sanitizer none)
cargo run --quiet --example seed
for target in $(cargo fuzz list); do
    runs=${RUNS:-20000}
    # These write and compare whole disks and hives; the chains are files of the host.
    case $target in write_reopen | repair | chain_ops | hive_*) runs=$((runs / 20)) ;; esac
    # These open volumes several times a run.
    case $target in fs_fat) runs=$((runs / 200)) ;; fs_*) runs=$((runs / 20)) ;; esac
    echo "fuzz $target: $runs runs"
    # The corpus stays as the seeds left it: new inputs go elsewhere.
    found=$(mktemp -d)
    cargo +nightly fuzz run "${options[@]}" "$target" "$found" "corpus/$target" -- \
        -runs="$runs" -seed=1 -rss_limit_mb=256 -timeout=5 -verbosity=0
    rm -r "$found"
done
