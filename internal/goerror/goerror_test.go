package goerror

import "testing"

func TestKind(t *testing.T) {
	for name, c := range map[string]struct {
		info Info
		want string
	}{
		"nothing known":     {Info{}, "_OTHER"},
		"refused":           {Info{Types: []string{"*net.OpError", "*os.SyscallError", "syscall.Errno"}, Raw: [2]uint64{111}}, "connection_refused"},
		"reset":             {Info{Types: []string{"*net.OpError", "*os.SyscallError", "syscall.Errno"}, Raw: [2]uint64{104}}, "connection_reset"},
		"other errno":       {Info{Types: []string{"syscall.Errno"}, Raw: [2]uint64{13}}, "errno_permission_denied"},
		"no such host":      {Info{Types: []string{"*net.OpError", "*net.DNSError"}}, "name_resolution"},
		"deadline":          {Info{Types: []string{"context.deadlineExceededError"}}, "timeout"},
		"response headers":  {Info{Types: []string{"*http.timeoutError"}}, "timeout"},
		"I/O deadline":      {Info{Types: []string{"*net.OpError", "*poll.DeadlineExceededError"}}, "timeout"},
		"cancelled":         {Info{Types: []string{"*errors.errorString"}, Text: "context canceled"}, "canceled"},
		"unknown authority": {Info{Types: []string{"*tls.CertificateVerificationError", "x509.UnknownAuthorityError"}}, "tls"},
		"closed by server":  {Info{Types: []string{"http.transportReadFromServerError", "*errors.errorString"}, Text: "EOF"}, "connection_closed"},
		"plain text":        {Info{Types: []string{"*errors.errorString"}, Text: "no luck"}, "errors.errorString"},
		"somebody's own":    {Info{Types: []string{"*shop.QuotaError"}}, "*shop.QuotaError"},
	} {
		if got, _ := c.info.Kind(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
