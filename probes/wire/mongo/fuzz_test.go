package mongo

import (
	"bytes"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"go.mongodb.org/mongo-driver/v2/bson"
)

func FuzzRequest(f *testing.F) {
	f.Add(msg(f, 0, d("find", "o", "filter", d("user", canary, "in", bson.A{1, "x"}), "$db", "shop"), ""), []byte("\x02$db\x00"))
	f.Add(msg(f, flagSum|flagMore, d("update", "o"), "updates", d("q", d("a", 1), "u", d("$set", d("b", d("c", 1))))), []byte(nil))
	for _, s := range samples(f) {
		f.Add(s.request, []byte(nil))
		f.Add(s.reply, []byte(nil))
	}
	shape, full := NewParser(TextShape), NewParser(TextFull)
	f.Fuzz(func(t *testing.T, b, end []byte) {
		for _, p := range []*Parser{shape, full} {
			r, err := p.Request(b, end)
			if err == nil && len(r.Text) > 2*maxText+len(b) {
				t.Errorf("a text of %d bytes from %d", len(r.Text), len(b))
			}
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(msg(f, 0, d("ok", 0.0, "errmsg", "x", "code", 1), ""))
	for _, s := range samples(f) {
		f.Add(s.reply)
	}
	p := NewParser(TextShape)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = p.Reply(b) })
}

func FuzzConn(f *testing.F) {
	f.Add(msg(f, 0, d("ping", 1), ""), msg(f, 0, d("ok", 1.0), ""), 3)
	f.Fuzz(func(_ *testing.T, out, in []byte, n int) {
		c := NewConn(NewParser(TextShape), func(*Exchange) {})
		n = max(1, min(n, 1<<16))
		for len(out) > 0 && c.Client(out[:min(n, len(out))], 1) == nil {
			out = out[min(n, len(out)):]
		}
		for len(in) > 0 && c.Server(in[:min(n, len(in))], 1) == nil {
			in = in[min(n, len(in)):]
		}
	})
}

func FuzzScrubMessage(f *testing.F) {
	f.Add(`dup key: { _id: "x" }`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := ScrubMessage(s); len(got) > maxMessageText+2 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

// FuzzSnappy: what the library decodes, the prefix decoder does, and of a part a part.
func FuzzSnappy(f *testing.F) {
	f.Add([]byte(strings.Repeat("abcd", 100)+"x"), 20)
	f.Fuzz(func(t *testing.T, plain []byte, cut int) {
		packed := snappy.Encode(nil, plain)
		dst := make([]byte, len(plain))
		if n := snappyPrefix(dst, packed); n != len(plain) || !bytes.Equal(dst, plain) {
			t.Fatalf("%d of %d bytes, or others", n, len(plain))
		}
		n := snappyPrefix(dst, packed[:max(0, min(cut, len(packed)))])
		if !bytes.Equal(dst[:n], plain[:n]) {
			t.Error("a part is decoded to something else")
		}
		_ = snappyPrefix(dst, plain) // hostile
	})
}
