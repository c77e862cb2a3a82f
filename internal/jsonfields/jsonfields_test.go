package jsonfields

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValues(t *testing.T) {
	paths := []string{"symbol", "signal.symbol", "signal.quantity", "orders.0.quantity", "orders.1.price", "ok", "1"}
	for name, c := range map[string]struct {
		json string
		want map[string]any
		err  error
	}{
		"flat":            {json: `{"symbol":"ACME","ok":true,"other":[1,{"symbol":"X"}]}`, want: map[string]any{"symbol": "ACME", "ok": true}},
		"nested":          {json: `{"signal":{"symbol":"ACME","quantity":10,"x":{"symbol":"Y"}},"z":1}`, want: map[string]any{"signal.symbol": "ACME", "signal.quantity": 10}},
		"in an array":     {json: `{"orders":[{"quantity":7},{"quantity":8,"price":1.25},{"price":2}]}`, want: map[string]any{"orders.0.quantity": 7, "orders.1.price": 1.25}},
		"array at top":    {json: `["a","b"]`, want: map[string]any{"1": "b"}},
		"array in array":  {json: `[["x"],[["y"]],3]`, want: map[string]any{}},
		"escaped":         {json: `{"s\u0079mbol":"\u20ac\n"}`, want: map[string]any{"symbol": "€\n"}},
		"not UTF-8":       {json: "{\"symbol\":\"a\xffb\"}", want: map[string]any{"symbol": "a�b"}},
		"null":            {json: `{"symbol":null}`, want: map[string]any{}},
		"an object":       {json: `{"symbol":{"a":1},"ok":[true]}`, want: map[string]any{}},
		"twice":           {json: `{"symbol":"a","symbol":"b"}`, want: map[string]any{"symbol": "b"}},
		"twice, then not": {json: `{"signal":{"quantity":1},"signal":{"quantity":1e999}}`, want: map[string]any{}},
		"big":             {json: `{"signal":{"quantity":123456789012345678901234567890}}`, want: map[string]any{"signal.quantity": 123456789012345678901234567890.0}},
		"too big":         {json: `{"signal":{"quantity":1e999},"symbol":"a"}`, want: map[string]any{"symbol": "a"}},
		"long number":     {json: `{"signal":{"quantity":` + strings.Repeat("9", 4000) + `},"symbol":"a"}`, want: map[string]any{"symbol": "a"}},
		"key is a path":   {json: `{"signal.symbol":"x"}`, want: map[string]any{}},
		"scalar":          {json: `"symbol"`, want: map[string]any{}},
		"two documents":   {json: `{"symbol":"a"}{"symbol":"b"}`, want: map[string]any{"symbol": "a"}},
		"cut in a text":   {json: `{"ok":true,"symbol":"AC`, want: map[string]any{"ok": true}, err: ErrCut},
		"cut in a number": {json: `{"ok":true,"signal":{"quantity":12`, want: map[string]any{"ok": true}, err: ErrCut},
		"cut in a key":    {json: `{"ok":true,"sym`, want: map[string]any{"ok": true}, err: ErrCut},
		"empty":           {json: ``, want: map[string]any{}, err: ErrCut},
		"no JSON":         {json: `symbol=ACME`, want: map[string]any{}, err: ErrSyntax},
		"broken":          {json: `{"symbol":"a",,}`, want: map[string]any{"symbol": "a"}, err: ErrSyntax},
		"closed wrongly":  {json: `{"symbol":"a"]`, want: map[string]any{"symbol": "a"}, err: ErrSyntax},
		"only closed":     {json: `}`, want: map[string]any{}, err: ErrSyntax},
		"deep":            {json: `{"ok":true,"signal":` + strings.Repeat(`{"signal":`, maxOpen-1), want: map[string]any{"ok": true}, err: ErrCut},
		"too deep":        {json: `{"ok":true,"signal":` + strings.Repeat(`{"signal":`, maxOpen), want: map[string]any{"ok": true}, err: ErrLarge},
		"too deep array":  {json: strings.Repeat(`[`, 1<<16), want: map[string]any{}, err: ErrLarge},
		"much":            {json: `{"x":[` + strings.Repeat(`1,`, maxTokens-8) + `1],"ok":true}`, want: map[string]any{"ok": true}},
		"too much":        {json: `{"ok":true,"x":[` + strings.Repeat(`1,`, maxTokens) + `1]}`, want: map[string]any{"ok": true}, err: ErrLarge},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(paths)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Values([]byte(c.json))
			if diff := cmp.Diff(c.want, got); diff != "" || !errors.Is(err, c.err) {
				t.Errorf("%v, want %v\n%s", err, c.err, diff)
			}
		})
	}
}

// Cut anywhere, nothing is known that is not in the whole, but of what is there twice.
func TestCut(t *testing.T) {
	const whole = `{"symbol":"ACME","signal":{"quantity":1250,"symbol":"X"},"ok":false}`
	p, err := New([]string{"symbol", "signal.quantity", "ok"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.Values([]byte(whole))
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for n := range len(whole) {
		got, err := p.Values([]byte(whole[:n]))
		if !errors.Is(err, ErrCut) {
			t.Errorf("%q: %v", whole[:n], err)
		}
		for path, v := range got {
			if all[path] != v {
				t.Errorf("%q: %s is %v", whole[:n], path, v)
			}
		}
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"": "want names", "a..b": "want names", ".a": "want names", strings.Repeat("a.", 8) + "a": "deeper than 8",
		strings.Repeat("a", 129): "longer than 128",
	} {
		if _, err := New([]string{path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", path, err, want)
		}
	}
	if _, err := New(make([]string, MaxPaths+1)); err == nil {
		t.Error("too many paths are taken")
	}
}

// Values agree with what encoding/json makes of the same input as a whole.
func FuzzValues(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,"x",true]},"c":1e3}`))
	f.Add([]byte(`[{"a":1}]`))
	f.Add([]byte(strings.Repeat(`{"a":[`, 200)))
	f.Add([]byte(`{"a":"` + "\xff\xed\xa0\x80" + `","c":123456789012345678901234567890}`))
	p, err := New([]string{"a.b.1", "c", "0.a", "a"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := p.Values(data)
		if len(got) > 4 {
			t.Fatalf("%v", got)
		}
		var whole map[string]any
		if err != nil || json.Unmarshal(data, &whole) != nil || strings.Count(string(data), `"`) > 8 {
			return // of what is there twice or in another letter case, Unmarshal has its own view
		}
		if v, ok := whole["c"].(string); ok && got["c"] != v {
			t.Errorf("%q: c is %v, want %q", data, got["c"], v)
		}
	})
}
