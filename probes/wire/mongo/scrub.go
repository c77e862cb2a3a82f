package mongo

import "strings"

// maxMessageText bounds what is kept of a server's error message, bytes.
const maxMessageText = 256

// ScrubMessage takes out of a server's error message what may be a value of the
// command's: whatever is quoted or in brackets, from the first to the last one of a kind,
// because what is inside may hold more of them, and every number.
func ScrubMessage(s string) string {
	out := make([]byte, 0, min(len(s), maxMessageText))
	for i := 0; i < len(s) && len(out) < maxMessageText; {
		c := s[i]
		closing, ok := brackets[c]
		switch {
		case ok && (c != '\'' || i == 0 || !letter(s[i-1])): // no apostrophe
			out = append(out, c, '?', closing)
			if n := strings.LastIndexByte(s[i+1:], closing); n >= 0 {
				i += n + 2
			} else {
				i = len(s)
			}
		case digit(c) && (i == 0 || !letter(s[i-1]) && !digit(s[i-1])):
			out = append(out, '?')
			for i < len(s) && (digit(s[i]) || letter(s[i]) || s[i] == '.') {
				i++
			}
		case c < ' ' || c >= 0x7f:
			out = append(out, '?')
			i++
		default:
			out = append(out, c)
			i++
		}
	}
	return string(out)
}

var brackets = map[byte]byte{'{': '}', '[': ']', '(': ')', '"': '"', '\'': '\'', '`': '`', '<': '>'}
