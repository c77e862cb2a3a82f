package kernels

import (
	"crypto/sha256"
	"encoding/gob"
	"os"
	"testing"
)

// plainSum is what is kept of a request that arrived without the agent.
type plainSum struct {
	Sum   [sha256.Size]byte // of the arrival's text
	Named int
}

// plainSums are those of a run, by kind and number.
type plainSums map[string]map[int]plainSum

// sums sends n requests without the agent.
func (b *byteRun) sums(from, n int) map[int]plainSum {
	b.t.Helper()
	kept := map[int]plainSum{}
	for done := 0; done < n; done += piece {
		for i, sent := range b.send(b.without, from+done, min(piece, n-done)).got {
			b.checkRefused(i, sent)
			b.like.add(b.kind, sent)
			kept[i] = plainSum{sha256.Sum256(sent[0].text), sent[0].named}
		}
	}
	return kept
}

func (p plainSums) write(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := gob.NewEncoder(f).Encode(p); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// readPlainSums returns those in the file, nil when there is no file.
func readPlainSums(t *testing.T, file string) plainSums {
	t.Helper()
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var p plainSums
	if err := gob.NewDecoder(f).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return p
}
