#!/usr/bin/env bash
# Builds vdisk, converts the sample image of the repository to VHDX, VHD and raw, and shows what
# came out.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
vdisk() { echo "\$ vdisk $*"; "${CARGO_TARGET_DIR:-target}/release/vdisk" "$@"; echo; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

vdisk info testdata/sample.vmdk
vdisk convert --verify -v testdata/sample.vmdk "$out/sample.vhdx"
vdisk convert --verify -v "$out/sample.vhdx" "$out/sample.vhd"
vdisk convert --verify -v "$out/sample.vhd" "$out/sample.img"
vdisk info "$out/sample.vhdx"
vdisk check "$out/sample.vhd"
vdisk compare testdata/sample.vmdk "$out/sample.vhdx"
vdisk checksum "$out/sample.vhd"
echo "expected:"
cat testdata/sample.sha256
sha256sum "$out/sample.img" | grep -q "^$(cut -d ' ' -f 1 testdata/sample.sha256)" &&
  echo "the raw copy has just that digest"
