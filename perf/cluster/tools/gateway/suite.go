//go:build tools

// Package suite pins the conformance suite, whose test binary is built from it.
package suite

import _ "sigs.k8s.io/gateway-api/conformance"
