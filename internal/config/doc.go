// Package config is the one place where settings come from: built-in defaults,
// a YAML file, the standard OTEL_* environment and flags, each overruling the
// one before. It is the only package that sees the environment.
//
// Its invariants: a Config that Load returned is valid; every error names the
// variable, key or flag that is wrong and what is allowed; and nothing that may
// be a credential is ever part of an error or of a printed Config.
package config
