package main

import (
	"os"
	"path/filepath"
)

// mongo compares what a MongoDB command costs the program that makes it.
func (b *bench) mongo() error {
	addr, stop, err := b.mongoServer()
	if err != nil {
		return err
	}
	defer stop()
	return b.calls(callKind{name: "mongo", one: "MongoDB command", sdk: "otelmongo", addr: addr, limit: 10})
}

// mongoServer runs a server on the second processor.
func (b *bench) mongoServer() (addr string, stop func(), err error) {
	path := filepath.Join(b.dir, "mongoserver")
	if err := build("../testdata/mongoserver", path); err != nil {
		return "", nil, err
	}
	if addr, err = freeAddr(); err != nil {
		return "", nil, err
	}
	data, err := os.MkdirTemp("", "bench-mongo")
	if err != nil {
		return "", nil, err
	}
	p, err := launch(procSpec{path: path, args: []string{"-addr", addr, "-dir", data}, cpu: loadCPU})
	if err != nil {
		return "", nil, err
	}
	stop = func() { p.stop(); os.RemoveAll(data) }
	if err := listens(addr); err != nil {
		stop()
		return "", nil, err
	}
	return addr, stop, nil
}
