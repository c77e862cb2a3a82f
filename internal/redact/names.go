package redact

// Names are compared in compact form: percent-decoded, lower case, letters and
// digits only, so that Api-Key, api_key, apiKey and %61pi.key are one name.

// fragments are secret wherever they stand in a compact name, by first letter.
// They are long enough not to appear in harmless words.
var fragments = index(
	"token", "secret", "password", "passwd", "passphrase", "passcode", "pwd",
	"apikey", "accesskey", "secretkey", "privatekey", "authkey", "sharedkey", "signingkey",
	"subscriptionkey", "masterkey", "encryptionkey", "functionkey", "functionskey", "accountkey", "licensekey", "sshkey",
	"signature", "credential", "session", "sessid", "authoriz", "authentic", "oauth", "bearer", "cookie",
	"jwt", "hmac", "cvv", "authcode", "verificationcode", "logincode",
	"samlresponse", "samlrequest", "idtokenhint", "kennwort", "passwort",
)

// minFragment is the length of the shortest of them.
const minFragment = 3

// words are secret as a whole word of a name: auth in x-auth or userAuth, but
// not in author.
var words = index(
	"auth", "pass", "passwd", "pwd", "sig", "sid", "pin", "otp", "totp", "mfa", "csrf", "xsrf", "cred", "creds",
	"signed", "cvc", "ssn",
)

// whole are secret only as the whole name: key and code, but not sort_key or
// zip_code.
var whole = index("key", "code", "hash", "ticket", "nonce", "assertion", "mac")

// index sorts names by first letter, so that a name is compared with few.
func index(names ...string) (byLetter [26][]string) {
	for _, n := range names {
		byLetter[n[0]-'a'] = append(byLetter[n[0]-'a'], n)
	}
	return byLetter
}

// compact appends a raw name in compact form to buf, and to starts where its
// words begin in buf. A word begins after anything that is no letter or digit,
// and at a capital after a small letter. Both are returned instead of kept in a
// struct so that the caller's arrays stay on its stack.
func compact(buf []byte, starts []int, name string) (letters []byte, words []int) {
	boundary, small := true, false
	for i := 0; i < len(name); i++ {
		c := name[i]
		if e, ok := escape(name, i); ok {
			c = e
			i += 2
		}
		if !alnum(c) {
			boundary = true
			continue
		}
		capital := c >= 'A' && c <= 'Z'
		if boundary || capital && small {
			starts = append(starts, len(buf))
		}
		boundary, small = false, !capital
		if capital {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf, starts
}

// secretName says that values under a name must not leave the host.
func (r *Rules) secretName(name string) bool {
	var bufSpace [64]byte
	var startSpace [16]int
	buf, starts := compact(bufSpace[:0], startSpace[:0], name)
	if len(buf) == 0 {
		return false
	}
	if in(&whole, buf) {
		return true
	}
	for i, from := range starts {
		to := len(buf)
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		if in(&words, buf[from:to]) {
			return true
		}
	}
	for i := 0; i+minFragment <= len(buf); i++ {
		for _, f := range candidates(&fragments, buf[i]) {
			// The second letter rules out nearly everything before the call
			// that a comparison of strings is.
			if buf[i+1] == f[1] && len(f) <= len(buf)-i && string(buf[i:i+len(f)]) == f {
				return true
			}
		}
	}
	_, ok := r.extra[string(buf)]
	return ok
}

func in(set *[26][]string, word []byte) bool {
	for _, w := range candidates(set, word[0]) {
		if string(word) == w {
			return true
		}
	}
	return false
}

func candidates(set *[26][]string, letter byte) []string {
	if letter < 'a' || letter > 'z' {
		return nil
	}
	return set[letter-'a']
}
