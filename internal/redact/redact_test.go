package redact

import (
	"strings"
	"testing"
)

const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4"

func TestQuery(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", ""},
		{"nothing secret", "a=1&b=2&c", "a=1&b=2&c"},
		{"semantic conventions", "AWSAccessKeyId=AKI&Signature=s&sig=t&X-Goog-Signature=u",
			"AWSAccessKeyId=REDACTED&Signature=REDACTED&sig=REDACTED&X-Goog-Signature=REDACTED"},
		{"amazon", "X-Amz-Algorithm=A&X-Amz-Credential=AKI%2Fx&X-Amz-Security-Token=z&X-Amz-Date=1",
			"X-Amz-Algorithm=A&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED&X-Amz-Date=1"},
		{"only the value goes", "page=2&access_token=abc&size=10", "page=2&access_token=REDACTED&size=10"},
		{"case", "API_KEY=1&ApiKey=2&api-key=3&aPiKeY=4", "API_KEY=REDACTED&ApiKey=REDACTED&api-key=REDACTED&aPiKeY=REDACTED"},
		{"semicolons", "a=1;token=x;b=2", "a=1;token=REDACTED;b=2"},
		{"percent-encoded name", "%74oken=x&api%5Fkey=y", "%74oken=REDACTED&api%5Fkey=REDACTED"},
		{"plus in name", "api+key=x", "api+key=REDACTED"},
		{"malformed escape in name", "tok%en=x&to%zken=y", "tok%en=REDACTED&to%zken=y"},
		{"malformed escape in value", "a=%zz&token=%", "a=%zz&token=REDACTED"},
		{"repeated", "token=a&token=b&x=1&token=c", "token=REDACTED&token=REDACTED&x=1&token=REDACTED"},
		{"array", "user[password]=x&user%5Bname%5D=n", "user[password]=REDACTED&user%5Bname%5D=n"},
		{"equals in value", "token=a=b==&x=1", "token=REDACTED&x=1"},
		{"empty value", "token=&x=1", "token=&x=1"},
		{"no value", "token&x", "token&x"},
		{"no name", "=x&=y", "=x&=y"},
		{"empty pairs", "&&a=1;;token=x&", "&&a=1;;token=REDACTED&"},
		{"web token anywhere", "q=" + token + "&r=Bearer%20" + token, "q=REDACTED&r=REDACTED"},
		{"web token encoded", "q=%65yJhbGciOiJIUzI1NiJ9%2EeyJzdWIiOiIxIn0.x", "q=REDACTED"},
		{"web token bare", token, "REDACTED"},
		{"web token as name", token + "=1&a=2", "REDACTED&a=2"},
		{"eyJ is not enough", "q=eyJ&r=eyJabc.def", "q=eyJ&r=eyJabc.def"},
		{"url in value", "next=https%3A%2F%2Fh%2F%3Ftoken%3Dabc%26x%3D1&a=1", "next=REDACTED&a=1"},
		{"url with password in value", "url=https://u:p@h/x", "url=REDACTED"},
		{"url without secret in value", "next=https%3A%2F%2Fh%2F%3Fpage%3D1", "next=https%3A%2F%2Fh%2F%3Fpage%3D1"},
		{"doubly encoded", "next=%253Ftoken%253Dabc", "next=REDACTED"},
		{"mail address stays", "to=a@b.example", "to=a@b.example"},
		{"oauth", "code=abc&state=s&grant_type=authorization_code", "code=REDACTED&state=s&grant_type=authorization_code"},
		{"bytes stay", "q=\xff\x00ü&t=%C3%BC", "q=\xff\x00ü&t=%C3%BC"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Query(tt.in); got != tt.want {
				t.Errorf("Query(%q)\n got %q\nwant %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	secret := []string{
		"token", "access_token", "refresh_token", "id_token", "csrf_token", "api_key", "apikey", "api-key", "x-api-key", "key",
		"secret", "client_secret", "clientSecret", "password", "passwd", "pwd", "newPassword", "auth", "authorization",
		"Authentication", "signature", "session", "sessionid", "JSESSIONID", "PHPSESSID", "sid", "code", "jwt", "otp", "pin",
		"credential", "credentials", "userAuth", "X-Auth", "private_key", "subscription-key", "Ocp-Apim-Subscription-Key",
		"hmac", "AWSAccessKeyId", "x-functions-key", "userPin", "user_pass",
	}
	harmless := []string{
		"", "a", "id", "page", "author", "authors", "keyword", "sort_key", "primaryKey", "monkey", "zip_code", "country_code",
		"statusCode", "compass", "passenger", "pinned", "shipping", "option", "design", "significant", "side", "residence",
		"state", "grant_type", "hashtag", "coded", "%", "%%", "&",
	}
	for _, n := range secret {
		if !builtin.secretName(n) {
			t.Errorf("%q is not taken for secret", n)
		}
	}
	for _, n := range harmless {
		if builtin.secretName(n) {
			t.Errorf("%q is taken for secret", n)
		}
	}
}

func TestExtraNames(t *testing.T) {
	r := New([]string{"Customer-Number", "iban", ""})
	if got, want := r.Query("customerNumber=1&iban=DE00&iban_country=DE"), "customerNumber=REDACTED&iban=REDACTED&iban_country=DE"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := r.Query("token=1&a=2"), "token=REDACTED&a=2"; got != want {
		t.Errorf("built-in rules with extras: got %q, want %q", got, want)
	}
}

func TestURL(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "https://h:8443/p?q=1#f", "https://h:8443/p?q=1#f"},
		{"userinfo", "https://u:p@h/p", "https://REDACTED:REDACTED@h/p"},
		{"user only", "https://ghp_x@h/p", "https://REDACTED@h/p"},
		{"at in password", "https://u:p@ss@h/p", "https://REDACTED:REDACTED@h/p"},
		{"at in path", "https://h/@u:p@x", "https://h/@u:p@x"},
		{"at in query", "https://h?m=a@b.example", "https://h?m=a@b.example"},
		{"scheme-less", "//u:p@h/", "//REDACTED:REDACTED@h/"},
		{"path only", "/p?token=x", "/p?token=REDACTED"},
		{"all", "http://u:p@h/p?a=1&token=x#access_token=y&b=2", "http://REDACTED:REDACTED@h/p?a=1&token=REDACTED#access_token=REDACTED&b=2"},
		{"fragment route", "/#/login?token=x", "/#/login?token=REDACTED"},
		{"empty query", "/p?", "/p?"},
		{"empty", "", ""},
		{"question mark in query", "/p?a=?&token=b?c", "/p?a=?&token=REDACTED"},
		{"backslash", `http://u:p@h\x`, `http://REDACTED:REDACTED@h\x`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := URL(tt.in); got != tt.want {
				t.Errorf("URL(%q)\n got %q\nwant %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestNoAllocation(t *testing.T) {
	const clean = "page=2&size=50&sort=price%20desc&filter=open&user_id=12345&callback=https%3A%2F%2Fh"
	// One value needs decoding to be looked at; without it nothing is allocated.
	for _, in := range []string{"", "a=1", "page=2&size=50&sort=price&filter=open&user_id=12345"} {
		if n := testing.AllocsPerRun(100, func() { _ = URL("https://h/p?" + in) }); n > 1 { // the concatenation
			t.Errorf("URL(%q): %v allocations", in, n)
		}
		if n := testing.AllocsPerRun(100, func() { _ = Query(in) }); n != 0 {
			t.Errorf("Query(%q): %v allocations", in, n)
		}
	}
	if got := Query(clean); got != clean {
		t.Errorf("Query(%q) = %q", clean, got)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("a=1&token=", "&b=2")
	f.Add("", "")
	f.Add("%zz;;=", "%")
	f.Add("next=%253F", "=x")
	f.Fuzz(func(t *testing.T, before, after string) {
		const canary = "CaNaRy7f3a"
		if strings.Contains(before+after, canary) {
			t.Skip()
		}
		// A pair of its own: whatever stands around it, its value must go.
		for _, in := range []string{before + "&api_key=" + canary + "&" + after, before + ";%70assword=" + canary + "x;" + after} {
			got := Query(in)
			if strings.Contains(got, canary) {
				t.Errorf("Query(%q) = %q", in, got)
			}
			if again := Query(got); again != got {
				t.Errorf("not stable: %q, then %q", got, again)
			}
			if got := URL("http://h/p?" + in); strings.Contains(got, canary) {
				t.Errorf("URL with %q = %q", in, got)
			}
		}
	})
}

func FuzzURL(f *testing.F) {
	f.Add("https://h/p?q=1#f")
	f.Add("//@@@/?#?#")
	f.Fuzz(func(t *testing.T, tail string) {
		const canary = "CaNaRy7f3a"
		in := "https://user:" + canary + "@host/" + tail
		if got := URL(in); strings.Contains(got, canary) && !strings.Contains(tail, canary) {
			t.Errorf("URL(%q) = %q", in, got)
		}
		got := URL(tail)
		if again := URL(got); again != got {
			t.Errorf("not stable: %q, then %q", got, again)
		}
	})
}

func BenchmarkQuery(b *testing.B) {
	for _, bb := range []struct{ name, in string }{
		{"clean", "page=2&size=50&sort=price&filter=open&user_id=12345"},
		{"secret", "page=2&access_token=abcdefghijklmnop&size=50"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = Query(bb.in)
			}
		})
	}
}
