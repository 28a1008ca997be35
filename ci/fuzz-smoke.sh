#!/usr/bin/env bash
# Runs every fuzz target a few thousand times, from the seeds; stops at the first fault. Needs a
# nightly compiler and cargo-fuzz, which it installs, and is left out where they cannot be had, unless
# VDISK_REQUIRE names fuzz.
#   RUNS=N      runs of each target
#   CARGO_TARGET_DIR, as usual
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

leave_out() {
    echo "SKIPPED(fuzz): needs $1"
    case ",${VDISK_REQUIRE:-}," in *,fuzz,*) exit 1 ;; *) exit 0 ;; esac
}
cargo +nightly --version >/dev/null 2>&1 || leave_out "a nightly compiler"
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz ||
    leave_out "cargo-fuzz, which could not be installed"
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
