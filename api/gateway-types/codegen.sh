#!/usr/bin/env bash
# Writes src/generated/ from the Gateway API's CRDs (v1.7.0, experimental channel) and records the hashes of what went
# in and came out, which a test checks. Needs go (for the module) and kopium 0.24.1:
#   cargo install kopium --version 0.24.1 --locked
set -euo pipefail
cd "$(dirname "$0")"
version=v1.7.0
kinds="gatewayclasses gateways httproutes referencegrants"
kopium=${KOPIUM:-kopium}
command -v "$kopium" >/dev/null || { echo "kopium is missing; cargo install kopium --version 0.24.1 --locked" >&2; exit 2; }
[ "$("$kopium" --version)" = "kopium 0.24.1" ] || { echo "kopium 0.24.1 is needed, this is $("$kopium" --version)" >&2; exit 2; }
module=$(cd / && GOFLAGS=-mod=mod GOTOOLCHAIN=go1.27.0 go mod download -json "sigs.k8s.io/gateway-api@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
mkdir -p crds src/generated
for kind in $kinds; do
  install -m 644 "$module/config/crd/experimental/gateway.networking.k8s.io_$kind.yaml" crds/
  "$kopium" --schema=disabled --derive=PartialEq --hide-kube -f - <"crds/gateway.networking.k8s.io_$kind.yaml" >"src/generated/$kind.rs"
done
sha256sum crds/*.yaml src/generated/*.rs >generated.sha256
