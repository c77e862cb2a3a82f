package dbpool

import (
	"os"
	"testing"
)

func TestParseStart(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 "
	for _, c := range []struct {
		name, stat string
		want       uint64 // 0: an error
	}{
		{"usual", "7 (api)" + rest + "4242 100 200\n", 4242},
		{"the name is like the rest", "7 (a) S 1 2 (b))" + rest + "4242 100 200\n", 4242},
		{"cut", "7 (api) S 1 2", 0},
		{"no name", "7 api S 1 2", 0},
		{"no number", "7 (api)" + rest + "x 100\n", 0},
		{"empty", "", 0},
	} {
		if got, err := parseStart([]byte(c.stat)); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %d, %v, want %d", c.name, got, err, c.want)
		}
	}
	if n, err := startTicks(int32(os.Getpid())); err != nil || n == 0 {
		t.Errorf("own process: %d, %v", n, err)
	}
}

func FuzzStart(f *testing.F) {
	f.Add([]byte("7 (a) S 1 2 (b)) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4242 100 200\n"))
	f.Fuzz(func(_ *testing.T, stat []byte) { _, _ = parseStart(stat) })
}
