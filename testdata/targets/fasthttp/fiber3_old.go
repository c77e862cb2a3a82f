//go:build !go1.25

package main

import "net"

// fiber3 is for Go releases that fiber v3 is not for.
var fiber3 func(net.Listener) error
