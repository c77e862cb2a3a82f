// Command tracer-agent watches Go programs from the kernel and tells what they do
// as OpenTelemetry spans, without a change to the programs.
//
// Exit codes: 0 asked to stop, 1 failed, 2 wrong usage.
package main

import (
	"os"

	_ "golang.org/x/crypto/x509roots/fallback" // authorities, for images that have none
)

// Set by the linker (-X main.version=... -X main.commit=...).
var (
	version = "dev"
	commit  = "none"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}
